"""Models and merges measured on the same items, and what their differences are worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mergery.evaluation import statistics
from mergery.evaluation.results import Evaluation, link
from mergery.evaluation.task import Task

Measure = Callable[[Mapping[str, Any], Sequence[Task], str], Evaluation]
"""What a recipe's model answers to tasks, under a name."""


@dataclass(frozen=True)
class Entry:
    """A model, or a merge of models, that was tried."""

    name: str  # the model's, or the method's
    recipe: Mapping[str, Any]
    merged: bool
    search: float  # the mean over tasks of their metrics, more is better, on the items to search with
    seconds: float
    tried: int = 1  # candidates, of which this is the one that was taken


@dataclass(frozen=True)
class Judged:
    """An entry on the items to validate on, with a 95 % interval, and its difference from the best model alone."""

    entry: Entry
    score: float
    low: float
    high: float
    gain: float  # over the best model alone
    gain_low: float
    gain_high: float

    def plain(self) -> dict[str, Any]:
        own = {key: value for key, value in vars(self).items() if key != "entry"}
        return {"name": self.entry.name, "merged": self.entry.merged, "search": self.entry.search, "tried": self.entry.tried,
                "recipe": self.entry.recipe, **own}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What is recommended."""

    chosen: Judged
    best_alone: Judged
    judged: tuple[Judged, ...]  # the best first

    @property
    def merge(self) -> bool:
        return self.chosen.entry.merged

    @property
    def words(self) -> str:
        """The verdict in a sentence."""
        alone = self.best_alone
        if self.merge:
            gain = self.chosen
            return (
                f"merge with {gain.entry.name}: {gain.gain:+.4f} [{gain.gain_low:+.4f}, {gain.gain_high:+.4f}] over "
                f"{alone.entry.name}, the best model alone"
            )
        tried = [each for each in self.judged if each.entry.merged]
        if not tried:
            return f"no merge was tried, as the time was over: of the models, {alone.entry.name} is best; give a larger budget"
        best = tried[0]
        return (
            f"do not merge: {alone.entry.name} alone is as good as the best merge, {best.entry.name}, whose gain is "
            f"{best.gain:+.4f} [{best.gain_low:+.4f}, {best.gain_high:+.4f}]"
        )


def judge(entries: Sequence[tuple[Entry, Evaluation]], seed: int) -> Verdict:
    """The best merge, where it beats the best model alone by more than chance; else that model.

    Scores are means over tasks. Intervals are of a bootstrap that draws the same items for all (Efron 1979).
    """
    scores = {entry.name: score_of(found) for entry, found in entries}
    draws = _resampled([found for _, found in entries], seed)
    alone = max((entry for entry, _ in entries if not entry.merged), key=lambda entry: scores[entry.name])
    place = next(number for number, (entry, _) in enumerate(entries) if entry is alone)
    judged = []
    for number, (entry, _) in enumerate(entries):
        gain = draws[number] - draws[place]
        judged.append(
            Judged(
                entry, scores[entry.name], *statistics.interval(draws[number]), scores[entry.name] - scores[alone.name],
                *statistics.interval(gain),
            )
        )  # fmt: skip
    judged.sort(key=lambda each: -each.score)
    best_alone = next(each for each in judged if each.entry is alone)
    merges = [each for each in judged if each.entry.merged]
    chosen = merges[0] if merges and merges[0].gain_low > 0 else best_alone
    return Verdict(chosen, best_alone, tuple(judged))


def score_of(found: Evaluation) -> float:
    """The mean over tasks of the metric that each is compared by, its sign such that more is better."""
    signed = [task.scores[task.metrics[0].name] * (1 if task.metrics[0].higher else -1) for task in found.tasks]
    return math.fsum(signed) / len(signed)


def _resampled(found: Sequence[Evaluation], seed: int) -> np.ndarray:
    """Scores on items drawn again, the same for all: (entries, resamples)."""
    total: Any = 0.0
    for place, first in enumerate(found[0].tasks):
        metric = first.metrics[0]
        orders = [sorted(range(len(each.tasks[place].items)), key=_ids(each.tasks[place])) for each in found]
        columns = [each.tasks[place].columns(metric.name) for each in found]
        values = np.stack([column[0][order] for column, order in zip(columns, orders, strict=True)])
        weights = columns[0][1][orders[0]]
        means = statistics.resampled_means(values, weights, seed=seed, name=first.task)
        total = total + link(means, metric) * (1 if metric.higher else -1)
    return total / len(found[0].tasks)


def _ids(task: Any) -> Callable[[int], Any]:
    return lambda number: task.items[number].item


@dataclass
class Clock:
    """How much of a budget is left, in seconds."""

    budget: float
    now: Callable[[], float]
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.now()

    @property
    def left(self) -> float:
        return self.budget - (self.now() - self.started)
