"""A candidate of a search: what was tried, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """What was tried: a value for each dimension, and what came of it."""

    number: int  # from 0
    values: Mapping[str, Any]
    score: float  # the mean of the goals
    stopped: bool = False  # on a part of the items: the score is then an estimate
    items: Mapping[str, list[float]] = field(default_factory=dict)  # what each item gave, by task
    goals: tuple[float, ...] = ()  # the score of each task, where each is a goal

    def plain(self) -> dict[str, Any]:
        own = {"number": self.number, "values": dict(self.values), "score": self.score, "stopped": self.stopped}
        return own | ({"goals": list(self.goals)} if self.goals else {})


def ranked(candidates: list[Candidate], count: int, *, estimated: bool = False) -> list[Candidate]:
    """The best that were asked all items, and where `estimated` the others as well, each set of values once."""
    whole = sorted((each for each in candidates if estimated or not each.stopped), key=lambda each: -each.score)
    first = {repr(each.values): each for each in reversed(whole)}
    return [each for each in whole if first[repr(each.values)] is each][:count]
