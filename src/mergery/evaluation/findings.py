"""What a comparison found, as numbers and in words: scores with intervals, differences, overlaps, the optimism of choosing."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from mergery.report.html import listed, table

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A model's score on a task, or on one category of it, with its bootstrap interval."""

    model: str
    task: str
    category: str  # empty for all items
    metric: str
    value: float
    low: float
    high: float
    items: int


@dataclass(frozen=True)
class Pair:
    """A candidate against a reference: the paired difference of their scores, and whether it is more than noise."""

    task: str
    metric: str
    higher: bool  # whether more is better
    candidate: str
    reference: str
    scores: tuple[float, float]
    difference: float
    low: float
    high: float
    test: str
    p: float
    corrected: float  # p for all comparisons on the task together
    family: int  # how many those are
    items: int
    visible: float  # the difference that so many items would show four times out of five

    @property
    def verdict(self) -> str:
        """`better`, `worse` or `noise`."""
        if self.corrected >= 1 - LEVEL or self.difference == 0:
            return "noise"
        return "better" if (self.difference > 0) == self.higher else "worse"

    @property
    def words(self) -> str:
        """The finding in one sentence."""
        places = decimals(self.high - self.low)
        change = f"{self.difference:+.{places}f} ({self.low:+.{places}f} to {self.high:+.{places}f})"
        scores = f"{self.scores[0]:.{places}f} against {self.scores[1]:.{places}f}"
        corrected = f"p = {self.corrected:.2g}" + (f", corrected for {self.family}" if self.family > 1 else "")
        if self.low == self.high == 0 and self.p == 1:
            return f"{self.candidate} and {self.reference} score the same on all {self.items} items of {self.task}"
        if self.verdict == "noise":
            return (
                f"{self.candidate} and {self.reference} cannot be told apart on {self.task}: {self.metric} {scores}, "
                f"{change} is noise ({corrected}); {self.items} items would show a difference of {self.visible:.{places}f}"
            )
        return (
            f"{self.candidate} is {self.verdict} than {self.reference} on {self.task}: {self.metric} {scores}, "
            f"{change} ({corrected})"
        )


def decimals(width: float) -> int:
    """Decimal places at which an interval so wide shows two figures; three at least."""
    return 3 if not width > 0 else min(9, max(3, 1 - math.floor(math.log10(width))))


@dataclass(frozen=True)
class Overlap:
    """Which items a candidate solves that no parent does, and which all parents solve and it has lost."""

    task: str
    candidate: str
    parents: tuple[str, ...]
    gained: tuple[str, ...]  # solved by the candidate alone
    lost: tuple[str, ...]  # solved by all parents, not by the candidate
    shared: int  # solved by all parents
    reachable: int  # solved by any parent
    reached: int  # of these, solved by the candidate

    @property
    def retention(self) -> float | None:
        """The share of what all parents solve that the candidate solves too; None where there is nothing."""
        return 1 - len(self.lost) / self.shared if self.shared else None


@dataclass(frozen=True)
class Optimism:
    """By how much the best of several candidates looks better than it is, because it was chosen."""

    task: str
    metric: str
    candidates: int
    best: str
    score: float
    items: int
    equal: float  # expected for equal candidates, each with noise of its own
    bootstrap: float  # estimated for these, whose noise is shared

    @property
    def words(self) -> str:
        """The warning in one sentence."""
        return (
            f"{self.best} is the best of {self.candidates} on {self.task} ({self.metric} {self.score:.3f}): the best of "
            f"{self.candidates} equal models would look {self.equal:.3f} better than it is on {self.items} items, and by "
            f"the bootstrap this one looks {self.bootstrap:.3f} better; report it on items that did not choose it"
        )


@dataclass(frozen=True, repr=False)
class Comparison:
    """All that can be said of several models on the same tasks."""

    models: tuple[str, ...]
    parents: tuple[str, ...]
    scores: tuple[Interval, ...]
    pairs: tuple[Pair, ...]
    overlaps: tuple[Overlap, ...]
    optimisms: tuple[Optimism, ...]

    def __repr__(self) -> str:
        tasks = len({score.task for score in self.scores})
        return f"<Comparison of {', '.join(self.models)} on {tasks} task{'s' if tasks != 1 else ''}>"

    def __str__(self) -> str:
        return "\n".join(self.words)

    def _repr_html_(self) -> str:
        """The scores as a table and the findings as sentences, for a notebook."""
        whole = {(score.model, score.task): score for score in self.scores if not score.category}
        tasks = list(dict.fromkeys(score.task for score in self.scores))
        cells = {place: f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for place, each in whole.items()}
        rows = [(model, *(cells.get((model, task), "") for task in tasks)) for model in self.models]
        return table(("model", *tasks), rows) + listed(self.words)

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(model for model in self.models if model not in self.parents)

    @property
    def words(self) -> list[str]:
        """The findings, one sentence each."""
        return [pair.words for pair in self.pairs] + [optimism.words for optimism in self.optimisms]

    def plain(self) -> dict[str, Any]:
        return {
            "models": self.models, "parents": self.parents, "scores": [asdict(score) for score in self.scores],
            "pairs": [{**asdict(pair), "verdict": pair.verdict, "words": pair.words} for pair in self.pairs],
            "overlaps": [{**asdict(overlap), "retention": overlap.retention} for overlap in self.overlaps],
            "optimism": [{**asdict(optimism), "words": optimism.words} for optimism in self.optimisms],
        }  # fmt: skip
