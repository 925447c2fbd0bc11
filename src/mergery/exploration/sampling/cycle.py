"""Quality and diversity in turn (CycleQD, arXiv 2410.14735): each task is the quality once, the others tell apart.

There is an archive for each task: a grid of cells by the scores in the other tasks, each with the candidate that is best in
its own. Two elites of the archive whose turn it is are averaged and mutated. The published mutation scales each singular
direction of a task vector by up to a tenth more; here it scales each open value so, and a candidate is its values. Where these
are weights of a fine-tune and of its truncation, they are those of groups of its singular directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mergery.exploration.sampling.genes import decoded, encoded, first_rows
from mergery.recipe.space import Dimension, Range, Space

BINS = 15  # of each task
MARGIN = 0.15  # of the worst and best first candidates' scores, by which the bins go beyond them
LEAST, MOST = 0.5, 0.8  # chances of an elite that is worst, and best, in a task
SPREAD = 0.01  # of the weights with which two elites are averaged
GROWTH = 0.1  # by which a mutation scales a value, at most

Cell = tuple[int, ...]


@dataclass
class Archives:
    """One archive for each task: the best candidate of each cell, by its place.

    low, high: (tasks,), the scores that the bins span.
    """

    low: np.ndarray
    high: np.ndarray
    cells: list[dict[Cell, tuple[int, float]]] = field(init=False)

    def __post_init__(self) -> None:
        self.cells = [{} for _ in self.low]

    def bins(self, goals: np.ndarray) -> np.ndarray:
        """The bin of each task's score: (tasks,) whole numbers."""
        span = np.where(self.high > self.low, self.high - self.low, 1.0)
        return np.clip(np.floor((goals - self.low) / span * BINS), 0, BINS - 1).astype(int)

    def insert(self, place: int, goals: np.ndarray) -> None:
        """Put a candidate where it is the first, or the best, of its cell."""
        bins = self.bins(goals)
        for task, archive in enumerate(self.cells):
            cell = tuple(int(each) for other, each in enumerate(bins) if other != task)
            if cell not in archive or goals[task] > archive[cell][1]:
                archive[cell] = place, float(goals[task])

    @property
    def coverage(self) -> int:
        """Cells that have a candidate."""
        return sum(map(len, self.cells))

    @property
    def quality(self) -> float:
        """The sum over all cells of what their candidates score above the lowest bin."""
        return sum(map(self.quality_of, range(len(self.cells))))

    def quality_of(self, task: int) -> float:
        """The same of one archive; a candidate below the lowest bin adds nothing."""
        return float(sum(max(0.0, score - self.low[task]) for _, score in self.cells[task].values()))

    def best(self, task: int) -> int:
        """The place of the candidate that is best in a task."""
        return max(self.cells[task].values(), key=lambda each: each[1])[0]


def spanning(space: Space) -> int:
    """How many of the first candidates the bins are laid out by."""
    return max(len(first_rows(space)), 4)


def archives(goals: np.ndarray, first: int) -> Archives:
    """The archives of candidates that came one by one. goals: (candidates, tasks); the first of them span the bins."""
    low, high = goals[:first].min(axis=0), goals[:first].max(axis=0)
    found = Archives(low - MARGIN * np.abs(low), high + MARGIN * np.abs(high))
    for place, own in enumerate(goals):
        found.insert(place, own)
    return found


def chances(goals: np.ndarray) -> np.ndarray:
    """How likely each elite is drawn: the product over tasks of a number that grows with its score. goals: (elites, tasks)."""
    low, high = goals.min(axis=0), goals.max(axis=0)
    scaled = (goals - low) / np.where(high > low, high - low, 1.0)
    product = np.prod(LEAST + scaled * (MOST - LEAST), axis=1)
    return product / product.sum()


def child(
    rows: np.ndarray,
    goals: np.ndarray,
    first: int,
    turn: int,
    dimensions: Sequence[Dimension],
    draw: np.random.Generator,
) -> np.ndarray:
    """The child of two elites of the archive whose turn it is. rows: (candidates, dimensions); goals: (candidates, tasks)."""
    archive = archives(goals, first).cells[turn % goals.shape[1]]
    places = sorted({place for place, _ in archive.values()})
    one, other = draw.choice(places, 2, p=chances(goals[places]))
    weights = np.abs(draw.normal(1.0, SPREAD, 2))
    return mutated(averaged(rows[one], rows[other], dimensions, weights), dimensions, draw, GROWTH)


def averaged(one: np.ndarray, other: np.ndarray, dimensions: Sequence[Dimension], weights: np.ndarray) -> np.ndarray:
    """Two candidates averaged with weights; of a choice, the one with the larger weight."""
    share = weights[0] / weights.sum()
    numbers = np.array([isinstance(each.kind, Range) for each in dimensions])
    return np.where(numbers, share * one + (1.0 - share) * other, one if share >= 0.5 else other)


def mutated(row: np.ndarray, dimensions: Sequence[Dimension], draw: np.random.Generator, growth: float) -> np.ndarray:
    """Each number scaled by up to 1 + growth, as far as its range goes."""
    grown = row.copy()
    for place, each in enumerate(dimensions):
        factor = 1.0 + growth * draw.random()
        if isinstance(each.kind, Range) and not each.kind.whole:
            value = decoded(each.kind, row[place]) * factor
            grown[place] = encoded(each.kind, min(max(value, each.kind.low), each.kind.high))
    return grown


def blend(rows: np.ndarray, goals: np.ndarray, first: int, dimensions: Sequence[Dimension]) -> Mapping[str, object]:
    """The average of the elites that are best in each task, weighted by the softmax of their scores there."""
    found = archives(goals, first)
    best = [found.best(task) for task in range(goals.shape[1])]
    scores = np.array([goals[place, task] for task, place in enumerate(best)])
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    mixed = weights @ rows[best]
    top = rows[best[int(np.argmax(weights))]]
    numbers = np.array([isinstance(each.kind, Range) for each in dimensions])
    mixed = np.where(numbers, mixed, top)
    return {each.name: decoded(each.kind, place) for each, place in zip(dimensions, mixed.tolist(), strict=True)}
