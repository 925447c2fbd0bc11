"""What the user is told of a plan that can run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.file_kinds import ADAPTER, CARD, NOT_COPIED, is_tokenizer_file
from mergery.dtypes import F64
from mergery.errors import SHOWN
from mergery.graph.nodes import Merged, Stored
from mergery.graph.view import Change, View
from mergery.graph.walking import is_computed, leaves, merges_below
from mergery.planning.steps import Step

COPIED = "copied from "  # how the note of copied tensors begins
FAR_OUT = 10.0  # a factor above is taken for a percentage


def changed_shapes(changes: Sequence[Change]) -> Iterator[str]:
    """What was done to the shape of models, and what it loses."""
    for change in changes:
        what = f"{change.model}: {change.what}"
        yield f"{what}; loses {change.loss}" if change.loss else f"{what} (exact)"


def copied(kinds: Sequence[Sequence[Step]], view: View) -> Iterator[str]:
    """Tensors that are copies of a model's, where others are merged: how many, and their roles."""
    count: dict[str, int] = {}
    roles: dict[str, dict[str, None]] = {}
    for kind in kinds:
        below = [] if is_computed(kind[0].node) else leaves(kind[0].node)
        model = ", ".join(dict.fromkeys(leaf.model for leaf in below))
        if model and below[0].dtype.floating:
            count[model] = count.get(model, 0) + len(kind)
            parsed = [view.architecture.names.get(step.name) for step in kind]
            roles.setdefault(model, {}).update({each.roles[0].split(".")[0]: None for each in parsed if each})
    if sum(count.values()) < sum(map(len, kinds)):
        for model, number in count.items():
            yield f"{COPIED}{model}: {number} tensors ({', '.join(roles[model])})"


def left_out(dropped: Mapping[str, str]) -> Iterator[str]:
    """Tensors of models that the output does not get, those with one reason together."""
    names: dict[str, list[str]] = {}
    for name, why in dropped.items():
        names.setdefault(why, []).append(name)
    for why, group in names.items():
        yield f"left out: {_few(group)} ({why})"


def treated_apart(treated: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Rules by which tensors are treated apart, and how many are."""
    for rule, names in treated.items():
        yield f"{len(dict.fromkeys(names))} tensors {rule} (such as {names[0]!r})"


def merged_as_stored(view: View) -> Iterator[str]:
    """Kinds of tensors of which the average is not the average of what they mean."""
    merged = [name for name, node in view.nodes.items() if is_computed(node)]
    names = view.architecture.names
    log = [name for name in merged if name.endswith(("A_log", "dt_bias", "time_decay"))]
    factors = [name for name in merged if "attention.kv" in names[name].roles]
    found: Mapping[str, list[str]] = {
        "parameters in log space are merged as stored: an average of logarithms is a geometric mean": log,
        "low-rank factors of attention are merged one by one: the product of averages is not the average of products": factors,
    }
    for text, such in found.items():
        if such:
            yield f"{len(such)} {text} (such as {such[0]!r})"


def copied_and_cut(kinds: Sequence[Sequence[Step]]) -> Iterator[str]:
    """Tensors of integers, and inputs of float64."""
    whole = [kind for kind in kinds if isinstance(kind[0].node, Stored) and not kind[0].node.dtype.floating]
    copied = [step for kind in whole for step in kind]
    if copied:
        yield f"{len(copied)} tensors of integers are copied, not merged (such as {copied[0].name!r})"
    firsts = [first.node for first, *_ in kinds]
    wide = [leaf for node in firsts for leaf in leaves(node) if leaf.info.dtype is F64 and node is not leaf]
    if wide:
        yield f"float64 inputs are merged in float32 (such as {wide[0].info.name!r} of {wide[0].model!r})"


def of_settings(kinds: Sequence[Sequence[Step]], *, percentages: bool) -> Iterator[str]:
    """What a reader should know of the settings of each merge: one thing of a setting that is far out of sense.

    `percentages` says that weights and scales may have been meant as such.
    """
    far = dict(far_out(kinds)) if percentages else {}
    nodes = {node.merge: node for node in (first.node for first, *_ in kinds) if isinstance(node, Merged)}
    for number, node in nodes.items():
        if number not in far:
            yield from node.method.remarks(node.settings)
    for said in far.values():
        yield from said


def far_out(kinds: Sequence[Sequence[Step]]) -> Iterator[tuple[int, list[str]]]:
    """By the number of the merge, weights and scales that are percentages, by their size: as factors they leave noise."""
    for number, merged in merges_below(first.node for first, *_ in kinds).items():
        found: list[str] = []
        largest: dict[str, float] = {}
        for node in merged:
            for name, value in node.method.factors(node.settings).items():
                largest[name] = max(value, largest.get(name, 0.0))
        for name, value in largest.items():
            if value > FAR_OUT:
                meant = f"did you mean {value / 100:g}?"
                found.append(f"{merged[0].method.name}: {name} {value:g} is a factor, not a percentage; {meant}")
        if found:
            yield number, found


def decoded_inputs(checkpoints: Mapping[str, Checkpoint]) -> Iterator[str]:
    """Models whose weights are codes: what was lost when they were made is not there to be merged."""
    said: dict[tuple[str, float], list[str]] = {}
    for name, checkpoint in checkpoints.items():
        if checkpoint.decoded:
            said.setdefault((checkpoint.decoded, checkpoint.lost), []).append(name)
    for (how, lost), names in said.items():
        one = "its" if len(names) == 1 else "their"
        yield (
            f"{', '.join(names)}: {one} weights are codes ({how}), decoded as they are read; rounding has moved them by about "
            f"{lost:.1%} of their length, and changes smaller than that were lost when they were made"
        )


def left_aside(checkpoints: Mapping[str, Checkpoint], donor: str) -> Iterator[str]:
    """Files and folders that the output does not get: nothing is passed over in silence.

    Models of which the same is to be said are told of together. `donor` gives the files beside the weights; those of a
    tokenizer, and model cards, are none of these.
    """
    said: dict[str, list[str]] = {}
    given = {name for name in checkpoints[donor].files if name not in NOT_COPIED}
    for name, checkpoint in checkpoints.items():
        found = checkpoint.contents
        own = [each for each in found.side if not is_tokenizer_file(each)]
        lacking = [each for each in own if each not in (*given, CARD, ADAPTER)]
        adapter = [each for each in own if each == ADAPTER and checkpoint.config]
        for files, text in (
            (found.unread, "{} not read"),
            (found.training, "state of training left behind: {}"),
            (found.unknown, "left behind: {}"),
            (lacking, f"left behind: {{}}; files beside the weights come from {donor}, which has none of that name"),
            (adapter, "{} left behind: it would load an adapter upon the merged model"),
        ):
            if files:
                said.setdefault(text.format(_few(files)), []).append(name)
    for text, names in said.items():
        yield f"{', '.join(names)}: {text}"


def _few(files: Sequence[str]) -> str:
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(files[:SHOWN]) + more
