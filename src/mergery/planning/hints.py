"""What to try where tensors are missing or left over."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mergery.errors import SHOWN, did_you_mean
from mergery.views.sets import INTERSECTION, UNION


def missing_hint(missing: Sequence[str], extra: Sequence[str], names: Collection[str]) -> str:
    """For tensors that a model of these names lacks, where it has others that its donor lacks."""
    rule = _rename(missing, extra)
    if rule and sum(name.startswith(rule[0][:-1]) for name in names) == len(extra):
        return f"if these are the same under other names, give it rename: {{{rule[0]!r}: {rule[1]!r}}}"
    near = did_you_mean(missing[0], extra)
    if near.startswith("did you mean"):
        return near
    return f"check that the files are complete, or leave out what not all models have: tensors: {INTERSECTION}"


def extra_hint(extra: Sequence[str]) -> str:
    """For tensors that a model alone has."""
    if len(extra) > SHOWN:
        return f"tensors: {INTERSECTION} leaves out what not all models have, tensors: {UNION} copies it"
    return f"name it under 'drop' to leave it out: drop: [{', '.join(map(repr, extra))}]"


def _rename(missing: Sequence[str], extra: Sequence[str]) -> tuple[str, str] | None:
    """The one change of what stands before names that makes all that is left over what is missing."""
    wanted = set(missing)
    if len(missing) != len(extra):
        return None
    for other in missing:
        head, tail = _common_end(extra[0], other)
        if "." not in tail:
            continue
        before = other[: len(other) - len(tail)]
        if all(name.startswith(head) and before + name[len(head) :] in wanted for name in extra):
            return f"{head}*", f"{before}*"
    return None


def _common_end(name: str, other: str) -> tuple[str, str]:
    """A name cut into what stands before the end that it shares with another, and that end, in whole words."""
    mine, theirs = name.split("."), other.split(".")
    shared = 0
    while shared < min(len(mine), len(theirs)) and mine[-1 - shared] == theirs[-1 - shared]:
        shared += 1
    tail = ".".join(mine[len(mine) - shared :])
    return name[: len(name) - len(tail)], tail
