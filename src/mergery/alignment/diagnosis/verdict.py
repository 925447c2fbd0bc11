"""What two models are to each other, and which doors that opens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mergery.alignment.diagnosis.signatures import Related, Tokens

Verdict = Literal["same", "lineage", "permuted", "transformed", "seed", "architecture"]
Open = Literal["open", "perhaps", "closed"]
WORDS: Mapping[str, str] = {
    "same": "the same weights",
    "lineage": "one lineage: the same coordinates, trained apart",
    "permuted": "one lineage with its neurons, heads, experts or channels in another order",
    "transformed": "one lineage in turned coordinates",
    "seed": "one architecture, trained from different beginnings",
    "architecture": "different architectures",
}
MLP = ("mlp.gate", "mlp.up", "mlp.gate_up", "mlp.down", "router")
FOUND, MOVED, COSINE = 0.5, 0.1, 0.2
EXACT, ROUNDED = 1e-3, 5e-3  # of lengths of rows, over how far they lie apart: in 32 bits, and in fewer
ORDERED = 2e-4  # of sums of powers of entries, which rounding hardly moves
EQUAL = 1e-5  # of singular values in 32 bits


@dataclass(frozen=True)
class Seen:
    """One pair of matrices, as they stand and in the coordinates of shared tokens."""

    name: str
    role: str
    layer: int
    plain: Related
    turned: Related  # the same where no map of the residual stream was found
    expert: bool = False


@dataclass(frozen=True)
class Door:
    """Something that can be done with two models."""

    name: str
    state: Open
    why: str
    command: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What two models are to each other: the verdict, the figures that say so, and the doors that are open."""

    models: tuple[str, str]
    verdict: Verdict
    why: tuple[str, ...]
    exact: bool  # whether nothing but coordinates differs, as far as was looked
    doors: tuple[Door, ...]
    tokens: Tokens | None
    matrices: tuple[Seen, ...]
    facts: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "models": list(self.models), "verdict": self.verdict, "words": WORDS[self.verdict], "exact": self.exact,
            "why": list(self.why), "doors": [asdict(door) for door in self.doors],
            "tokens": self.tokens._asdict() if self.tokens else None,
            "matrices": [
                {"name": each.name, "role": each.role, "layer": each.layer, **each.plain._asdict(),
                 "in shared coordinates": each.turned._asdict()}
                for each in self.matrices
            ],
            **self.facts,
        }  # fmt: skip


def mean(seen: Sequence[Seen], figure: str, *, turned: bool = False) -> float:
    """The mean of a figure over matrices."""
    values = [getattr(each.turned if turned else each.plain, figure) for each in seen]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def judge(
    seen: Sequence[Seen], tokens: Tokens | None, facts: Mapping[str, Any]
) -> tuple[Verdict, tuple[str, ...], bool]:
    """The verdict, why, and whether nothing but coordinates differs."""
    if facts["differing"] or facts["families"][0] != facts["families"][1] or facts["depths"][0] != facts["depths"][1]:
        return "architecture", tuple(_shapes(facts)), False
    if not seen:
        return "architecture", ("they have no matrices in common",), False
    whole = all(dtype in ("float32", "float64") for dtype in facts["dtypes"])
    routers = [each for each in seen if each.role == "router"]
    shuffled = mean(routers, "found", turned=True) >= FOUND and mean(routers, "moved", turned=True) > MOVED
    # of experts that stand elsewhere, the first is another in each model
    mlp = [each for each in seen if each.role in MLP and not (shuffled and each.expert)] or list(seen)
    rest = [each for each in seen if each.role not in MLP] or list(seen)
    cosine, distance = mean(seen, "cosine"), mean(seen, "distance")
    about = [f"weights: cosine {cosine:.3f}, distance {distance:.3f} of their length, over {len(seen)} matrices"]
    if tokens is not None:
        about.append(_rows(tokens))
    if all(each.plain.distance == 0.0 for each in seen) and (tokens is None or tokens.cosine > 1.0 - 1e-6):
        return "same", tuple(about), True
    found = [(mean(some, "found", turned=True), mean(some, "moved", turned=True)) for some in (mlp, rest)]
    about += [
        f"{what}: {share:.0%} are found in the other model, {moved:.0%} of these in another place"
        for what, (share, moved) in zip(("neurons of MLPs", "dimensions of heads"), found, strict=True)
    ]
    turned = tokens is not None and tokens.cosine <= FOUND < tokens.turned
    at_home = not turned and all(share >= FOUND and moved <= MOVED for share, moved in found)
    if at_home or (cosine >= COSINE and min(each.plain.cosine for each in seen) >= COSINE / 2):
        return "lineage", tuple(about), False
    if shuffled:
        about.append("experts stand in another order, by the rows of routers")
    known = any(each.turned.spectrum is not None for each in mlp)
    equal = whole and known and mean(mlp, "spectrum", turned=True) < EQUAL
    kin = turned or equal or max(share for share, _ in found) >= FOUND or (tokens is not None and tokens.cosine > FOUND)
    exact = (
        kin and mean(mlp, "lengths", turned=True) < (EXACT if whole else ROUNDED) and (equal or not (whole and known))
    )
    if exact:
        about.append(
            "lengths of rows and singular values are equal: the other model in other coordinates, and nothing else"
        )
    if kin:
        entries = max(each.plain.entries for each in (*mlp, *rest))
        ordered = entries < ORDERED if exact else _ordered(found, tokens, turned=turned)
        return ("permuted" if ordered else "transformed"), tuple(about), exact
    return "seed", tuple(about), False


def _ordered(found: Sequence[tuple[float, float]], tokens: Tokens | None, *, turned: bool) -> bool:
    """Whether an order explains what is found, with no turn of coordinates."""
    whole = all(share >= FOUND for share, _ in found)
    return whole and not (turned and tokens is not None and tokens.places < 0.9)


def _rows(tokens: Tokens) -> str:
    said = f"rows of {tokens.shared:,} shared tokens: cosine {tokens.cosine:.3f}"
    return f"{said}, {tokens.turned:.3f} after the best turn" if tokens.turned != tokens.cosine else said


def _shapes(facts: Mapping[str, Any]) -> Iterator[str]:
    names = ("families", "depths", "widths")
    words = ("families", "numbers of layers", "widths")
    for key, word in zip(names, words, strict=True):
        first, second = facts[key]
        if first != second:
            yield f"{word}: {first} and {second}"
    if facts["differing"]:
        yield f"{len(facts['differing'])} tensors of one name have different shapes, such as {facts['differing'][0]!r}"


def doors(
    verdict: Verdict, facts: Mapping[str, Any], models: tuple[str, str], tokens: Tokens | None, *, exact: bool
) -> Iterator[Door]:
    """What can be done with two models, best first."""
    mine, theirs = models
    same_shape = verdict != "architecture"
    why_not, decoders = facts["why_not"], facts["decoders"]
    merges: Open = "open" if verdict == "lineage" and not why_not else "closed"
    reasons = {
        "same": "there is nothing to merge: they are the same",
        "lineage": why_not[0] if why_not else "their weights stand in one coordinate system",
        "permuted": "entries of one place are of different neurons: align first",
        "transformed": "entries of one place are of different directions: align first",
        "seed": "an average of entries that mean different things is noise",
        "architecture": "tensors of different shapes have no average",
    }
    yield Door(
        "merge",
        merges,
        reasons[verdict],
        f"mergery auto {theirs} {mine} --tasks questions.jsonl --out OUT" if merges == "open" else "",
    )
    aligns: Open = "open" if verdict in ("permuted", "transformed") else "perhaps" if verdict == "seed" else "closed"
    rotated = verdict == "transformed" and tokens is not None and tokens.cosine <= FOUND < tokens.turned
    spaces = " --spaces rotation mlp heads qk vo" if rotated else ""
    said = {
        "permuted": "every neuron has its counterpart",
        "transformed": "turns of heads and of the residual stream are undone where the family leaves them free",
        "seed": "neurons can be matched, and a barrier is left that narrows with width: measure the result",
        "architecture": "neurons of different shapes are transported, not matched",
    }.get(verdict, "they stand in one order already")
    if aligns != "closed" and not facts["symmetries"]:
        aligns, said = "closed", "what leaves a model of this family as it is has not been worked out"
    yield Door("align", aligns, said, f"mergery align {mine} OUT --to {theirs}{spaces}" if aligns != "closed" else "")
    depth = facts["families"][0] == facts["families"][1] and facts["depths"][0] == facts["depths"][1]
    if verdict == "lineage":
        kept = "" if facts["rows"][0] == facts["rows"][1] else " --tokenizer base"
        command = f"mergery rebase FINETUNE OUT --from {mine} --to {theirs}{kept}"
        yield Door("rebase", "open", "a fine-tune of one can be moved to the other as it is", command)
    elif depth and verdict != "same" and facts["widths"][0] is None:
        yield Door("rebase", "closed", "maps between bases begin with rows of tokens, and it has none")
    elif depth and verdict != "same":
        command = f"mergery rebase FINETUNE OUT --from {mine} --to {theirs} --way theseus"
        state: Open = "open" if verdict in ("permuted", "transformed") else "perhaps"
        yield Door("rebase", state, "a fine-tune of one can be carried to the other through orthogonal maps", command)
    else:
        why = (
            "there is nowhere to move to"
            if verdict == "same"
            else "each layer is carried to the same one of another base"
        )
        yield Door("rebase", "closed", why)
    if verdict in ("architecture", "seed") and decoders:
        command = f"mergery transport {mine} OUT --into {theirs} --data texts.jsonl"
        yield Door("transport", "open", "what texts do to neurons says which belong together", command)
    else:
        why = "it is of decoders" if not decoders else "their weights are nearer than transport would bring them"
        yield Door("transport", "closed", why)
    if verdict == "same" or (same_shape and exact):
        yield Door("distil", "closed", "both answer alike")
    else:
        why = "a student of both learns their answers, whatever their shapes: it takes training"
        command = f"mergery fuse {theirs} OUT --teachers {mine} --data texts.jsonl"
        yield Door(
            "distil",
            "open" if decoders else "closed",
            why if decoders else "it is of decoders",
            command if decoders else "",
        )
