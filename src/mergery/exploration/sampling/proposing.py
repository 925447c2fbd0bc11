"""The next candidate by the samplers of this folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergery.evaluation.task import Task
from mergery.exploration.candidates import Candidate
from mergery.exploration.sampling import cycle, niches, surrogate
from mergery.exploration.sampling.genes import at_random, first_rows, row, scores_of
from mergery.recipe.space import Space

OWN = ("niches", "cycle", "quadratic")
NEAR = 1e-3  # a point this near to one that was tried says nothing new
AWAY = 0.1  # how far around it the next one is looked for


def propose(
    sampler: str, space: Space, tasks: Sequence[Task], history: Sequence[Candidate], number: int, seed: int
) -> np.ndarray:
    """The candidate of a number, by those that were told before its draw: (dimensions,). seed: of this candidate alone."""
    draw = np.random.default_rng(seed)
    rows = np.array([row(space.dimensions, each.values) for each in history])
    if sampler == "quadratic":
        return _by_surrogate(space, rows, history, number, draw)
    starts = first_rows(space)
    first = niches.ARCHIVE if sampler == "niches" else cycle.spanning(space)
    if number < first or len(history) < 2:
        return starts[number] if number < len(starts) else at_random(space.dimensions, draw)
    if sampler == "niches":
        scores = np.stack([scores_of(each.items, tasks) for each in history])
        kept = niches.survivors(scores)
        return niches.child(rows[kept], scores[kept], space.dimensions, draw)
    goals = np.array([each.goals for each in history])
    return cycle.child(rows, goals, first, number - first, space.dimensions, draw)


def _by_surrogate(
    space: Space, rows: np.ndarray, history: Sequence[Candidate], number: int, draw: np.random.Generator
) -> np.ndarray:
    count = len(space.dimensions)
    whole = [place for place, each in enumerate(history) if not each.stopped]
    if number < surrogate.terms(count):
        return surrogate.first_points(count, np.random.default_rng(0))[number]
    if len(whole) <= count:
        return at_random(space.dimensions, draw)
    scores = np.array([history[place].score for place in whole])
    point = surrogate.largest(surrogate.fitted(rows[whole], scores), count, draw)
    if np.abs(rows - point).max(axis=1).min() < NEAR or len(history) < number:
        point = np.clip(point + draw.normal(0.0, AWAY, count), 0.0, 1.0)
    return point


def blended(space: Space, history: Sequence[Candidate]) -> Mapping[str, Any]:
    """What `cycle` ends with: the average of the elites of all tasks."""
    rows = np.array([row(space.dimensions, each.values) for each in history])
    goals = np.array([each.goals for each in history])
    return cycle.blend(rows, goals, cycle.spanning(space), space.dimensions)
