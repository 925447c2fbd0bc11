"""What a search by quality and diversity has filled, as it is told: coverage, quality, and the cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergery.exploration.candidates import Candidate
from mergery.exploration.sampling.cycle import BINS, Archives, archives, spanning
from mergery.recipe.space import Space

DRAWN = 3  # tasks whose archives can be drawn on a page, at most
EMPTY, STEPS = ".", "123456789"  # of a drawing


@dataclass(frozen=True)
class Filled:
    """A cell that has a candidate.

    bins: of the other tasks' scores, in their order, from 0 to 14. candidate: its number, from 0. score: in the archive's task.
    """

    bins: tuple[int, ...]
    candidate: int
    score: float


@dataclass(frozen=True)
class Archive:
    """The archive of one task, in which the others tell candidates apart.

    others: those tasks. spans: the scores between which each of them has its bins. quality: the sum over the cells of what
    their candidates score above the lowest bin of the task, which grows with every cell that is filled or bettered (QD score).
    """

    task: str
    others: tuple[str, ...]
    spans: tuple[tuple[float, float], ...]
    quality: float
    cells: tuple[Filled, ...]

    @property
    def coverage(self) -> float:
        """The share of all cells that have a candidate."""
        return len(self.cells) / BINS ** len(self.others)

    @property
    def words(self) -> list[str]:
        """The archive in a sentence, and drawn where it has at most two sides."""
        best = max(self.cells, key=lambda each: each.score)
        said = f"{len(self.cells)} of {BINS ** len(self.others)} cells, QD score {self.quality:.4f}"
        return [
            f"archive of {self.task}: {said}, best {best.score:.4f} (candidate {best.candidate + 1})",
            *self._drawn(),
        ]

    def _drawn(self) -> Iterator[str]:
        """A character for each cell, 9 for the best: the first of the other tasks from left to right, the second upwards."""
        if not 1 <= len(self.others) < DRAWN:
            return
        scores = [each.score for each in self.cells]
        low, high = min(scores), max(scores)
        marks = {each.bins: _mark((each.score - low) / (high - low) if high > low else 1.0) for each in self.cells}
        ends = [f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in zip(self.others, self.spans, strict=True)]
        yield f"  {' by '.join(ends)}:"
        for second in reversed(range(BINS if len(self.others) == 2 else 1)):
            bins = [(first, second)[: len(self.others)] for first in range(BINS)]
            yield "  " + " ".join(marks.get(each, EMPTY) for each in bins)

    def plain(self) -> dict[str, Any]:
        """The archive as plain data."""
        return {
            "task": self.task, "coverage": self.coverage, "quality": self.quality, "bins": BINS,
            "spans": {name: list(span) for name, span in zip(self.others, self.spans, strict=True)},
            "cells": [{"bins": list(each.bins), "candidate": each.candidate, "score": each.score} for each in self.cells],
        }  # fmt: skip


def _mark(share: float) -> str:
    return STEPS[min(int(share * len(STEPS)), len(STEPS) - 1)]


def filled(space: Space, tasks: Sequence[str], history: Sequence[Candidate]) -> tuple[Archive, ...]:
    """The archives of a search, one for each task."""
    found = archives(np.array([each.goals for each in history]), spanning(space))
    return tuple(_of_task(found, place, tasks, history) for place in range(len(tasks)))


def _of_task(found: Archives, place: int, tasks: Sequence[str], history: Sequence[Candidate]) -> Archive:
    others = [other for other in range(len(tasks)) if other != place]
    spans = tuple((float(found.low[other]), float(found.high[other])) for other in others)
    cells = tuple(Filled(bins, history[at].number, score) for bins, (at, score) in sorted(found.cells[place].items()))
    return Archive(tasks[place], tuple(tasks[other] for other in others), spans, found.quality_of(place), cells)
