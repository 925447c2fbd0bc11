"""The output's tokenizer as files: the lead's, with more tokens, merges, pieces and special tokens.

Byte pair encoding: the lead's merges come first, in their order, then those of the others that it lacks, model by model.
A text is then cut as the lead cuts it, and its pieces joined further where another model knows more. Unigram models: the
others' scores are shifted by the median difference on shared pieces, so that they count alike. WordPiece and whole words:
the union of the words.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mergery.checkpoints.tokenizer.reading import DEFAULTS, ROLES, UNIGRAM, Tokenizer
from mergery.errors import PlanError
from mergery.views.vocabulary.choosing import Chosen, Member

PARTS = ("normalizer", "pre_tokenizer", "decoder")
TRAITS = (
    "byte_fallback", "ignore_merges", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "dropout",
    "max_input_chars_per_word",
)  # fmt: skip
SLOW = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "vocab.txt")


def differences(lead: Tokenizer, other: Tokenizer) -> list[str]:
    """What keeps two tokenizers from being joined, in words; empty where their tokens may be."""
    if lead.kind != other.kind:
        return [f"{lead.label} has a {lead.kind} tokenizer and {other.label} a {other.kind} one"]
    found = []
    for part in PARTS:
        mine, theirs = lead.data.get(part), other.data.get(part)
        if mine != theirs:
            found.append(f"their {part}s differ: {_short(mine)} and {_short(theirs)}")
    for trait in TRAITS:
        mine, theirs = lead.data["model"].get(trait), other.data["model"].get(trait)
        if (mine or None) != (theirs or None):
            found.append(f"{trait} differs: {mine} and {theirs}")
    if lead.form != other.form:
        found.append(f"{lead.label} has a {lead.form} and {other.label} a {other.form}")
    return found


def _short(part: Any) -> str:
    text = json.dumps(part, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."


def refuse_unlike(chosen: Chosen, members: Sequence[Member]) -> None:
    """Raise PlanError where pieces of a model cannot be put into the lead's tokenizer. Added tokens always can."""
    for member in members:
        plain = [t for t, name in chosen.origin.items() if name == member.name and t not in member.tokenizer.added]
        unlike = differences(chosen.lead, member.tokenizer) if plain else []
        if unlike:
            raise PlanError(
                f"the tokenizers of {chosen.lead.label!r} and {member.name!r} cannot be joined",
                why="; ".join(unlike),
                hint="take one model's tokenizer: output: {tokenizer: base}, or a model's name; "
                "or give one model the other's first: mergery vocabulary transplant",
            )


class Rebuilt:
    """The files of the output's tokenizer. `dropped` counts merges that could not be kept, by model."""

    def __init__(self, chosen: Chosen, members: Sequence[Member], *, union: bool) -> None:
        self.chosen, self.lead = chosen, chosen.lead
        self.others = [member for member in members if member.tokenizer is not chosen.lead] if union else []
        self.dropped: dict[str, int] = {}
        self.added = self._added()
        self.data = self._data()

    def files(self, texts: Mapping[str, bytes]) -> dict[str, bytes]:
        """Every tokenizer file of the output, from the lead's own `texts`; files that would be stale are missing."""
        out = {name: text for name, text in texts.items() if name not in SLOW and name != "tokenizer.json"}
        if self.lead.form == "tokenizer.json":
            out["tokenizer.json"] = _text(self.data)
        elif self.lead.form == "vocab.json":
            model = self.data["model"]
            merges = [entry if isinstance(entry, str) else " ".join(entry) for entry in model["merges"]]
            out["vocab.json"] = _text(model["vocab"])
            out["merges.txt"] = ("\n".join(["#version: 0.2", *merges]) + "\n").encode()
        else:
            words = sorted(self.data["model"]["vocab"].items(), key=lambda item: item[1])
            out["vocab.txt"] = ("\n".join(word for word, _ in words) + "\n").encode()
        older = self.lead.form != "tokenizer.json"
        settings = dict(self.lead.settings)
        if older or "added_tokens_decoder" in settings:
            settings["added_tokens_decoder"] = {
                str(entry["id"]): {key: value for key, value in entry.items() if key != "id"} for entry in self.added
            }
        if settings:
            out["tokenizer_config.json"] = _text(settings)
        if older or "added_tokens.json" in texts:
            out["added_tokens.json"] = _text({entry["content"]: entry["id"] for entry in self.added})
        return out

    def _added(self) -> list[dict[str, Any]]:
        """Added tokens with their ids in the output, in the order of these."""
        tokens = self.chosen.tokens
        found: dict[str, dict[str, Any]] = {}
        for tokenizer in (self.lead, *(member.tokenizer for member in self.others)):
            for content, entry in tokenizer.added.items():
                if content in tokens and content not in found:
                    found[content] = {**entry, "id": tokens[content]}
        for content, special in self.chosen.created.items():
            found[content] = {"content": content, **DEFAULTS, "special": special, "id": tokens[content]}
        return sorted(found.values(), key=lambda entry: entry["id"])

    def _data(self) -> dict[str, Any]:
        tokens, model = self.chosen.tokens, dict(self.lead.data["model"])
        plain = {t: tokens[t] for t, name in self.chosen.origin.items() if t not in self._tokenizer(name).added}
        if self.lead.kind == UNIGRAM:
            model["vocab"] = self._pieces(model["vocab"], plain)
        else:
            vocab = {token: index for token, index in model["vocab"].items() if token in tokens} | plain
            gaps = len(vocab) != max(vocab.values(), default=-1) + 1
            if plain or gaps:  # an added token that is no plain one gets its id by counting
                vocab |= {entry["content"]: entry["id"] for entry in self.added}
            model["vocab"] = dict(sorted(vocab.items(), key=lambda item: item[1]))
            if "merges" in model:
                model["merges"] = self._merges(model["merges"], model["vocab"])
        kept = {**self.lead.data, "model": model}
        if self.lead.form == "tokenizer.json":
            kept["added_tokens"] = [
                {"id": entry["id"], "content": entry["content"], **{key: entry[key] for key in DEFAULTS}}
                for entry in self.added
            ]
        return kept

    def _tokenizer(self, name: str) -> Tokenizer:
        return next(member.tokenizer for member in self.others if member.name == name)

    def _pieces(self, own: list[Any], plain: Mapping[str, int]) -> list[list[Any]]:
        """The pieces of a unigram model: an id is a place in this list."""
        pieces = {index: [token, score] for index, (token, score) in enumerate(own) if token in self.chosen.tokens}
        if not plain:
            return [pieces[index] for index in sorted(pieces)]
        lowest = min((score for _, score in pieces.values()), default=0.0)
        shifts = {member.name: _shift(self.lead, member.tokenizer) for member in self.others}
        for token, index in plain.items():
            name = self.chosen.origin[token]
            score = self._tokenizer(name).scores[token] + shifts[name]
            pieces[index] = [token, max(score, lowest)]
        for entry in self.added:
            pieces.setdefault(entry["id"], [entry["content"], lowest])
        missing = [index for index in range(self.chosen.end) if index not in pieces]
        if missing:
            raise PlanError(
                f"the unigram tokenizer of {self.lead.label!r} has no piece {missing[0]}",
                why="an id is a place in its list of pieces, which may have no gap",
                hint="output: {tokenizer: base} keeps it as it is",
            )
        return [pieces[index] for index in range(self.chosen.end)]

    def _merges(self, own: list[Any], vocab: Mapping[str, int]) -> list[Any]:
        """The lead's merges, then those that only others have; those of unknown parts or products are left out."""
        prefix = len(self.lead.data["model"].get("continuing_subword_prefix") or "")

        def holds(pair: tuple[str, str]) -> bool:
            return pair[0] in vocab and pair[1] in vocab and pair[0] + pair[1][prefix:] in vocab

        seen = dict.fromkeys(self.lead.merges)
        kept = [entry for entry, pair in zip(own, self.lead.merges, strict=True) if holds(pair)]
        self._count(self.lead.label, len(own) - len(kept))
        listed = bool(own) and isinstance(own[0], list)
        for member in self.others:
            new = [pair for pair in member.tokenizer.merges if pair not in seen]
            seen |= dict.fromkeys(new)
            sound = [pair for pair in new if holds(pair)]
            self._count(member.name, len(new) - len(sound))
            kept += [list(pair) if listed or " " in "".join(pair) else " ".join(pair) for pair in sound]
        return kept

    def _count(self, name: str, number: int) -> None:
        if number:
            self.dropped[name] = number

    def missing_roles(self) -> list[str]:
        """Special tokens that the lead's settings name and the output lacks."""
        special = self.lead.special
        return [
            f"{role} {special[role]!r}" for role in ROLES if role in special and special[role] not in self.chosen.tokens
        ]


def _shift(lead: Tokenizer, other: Tokenizer) -> float:
    """The median difference of the scores of pieces that both have: zero scores are of special ones."""
    both = [score - other.scores[token] for token, score in lead.scores.items() if score and other.scores.get(token)]
    return statistics.median(both) if both else 0.0


def _text(data: Any) -> bytes:
    return (json.dumps(data, ensure_ascii=False, indent=2) + "\n").encode()
