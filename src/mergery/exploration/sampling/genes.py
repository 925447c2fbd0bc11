"""Open values as rows of numbers, and what the items gave as rows of scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergery.evaluation.task import Task
from mergery.recipe.space import Choice, Dimension, Range, Space


def encoded(kind: Range | Choice, value: Any) -> Any:
    """A value as Optuna keeps it: the place of a choice, which may be any data, or of a number in its range, from 0 to 1."""
    if isinstance(kind, Choice):
        return kind.values.index(value)
    if kind.log:
        return math.log(value / kind.low) / math.log(kind.high / kind.low)
    return (value - kind.low) / (kind.high - kind.low)


def decoded(kind: Range | Choice, place: Any) -> Any:
    """The value at a place."""
    if isinstance(kind, Choice):
        return kind.values[round(place)]
    value = kind.low * (kind.high / kind.low) ** place if kind.log else kind.low + place * (kind.high - kind.low)
    return round(value) if kind.whole else min(max(value, kind.low), kind.high)


def middle(kind: Range | Choice) -> Any:
    """The middle of a range, the first value of a choice."""
    return kind.values[0] if isinstance(kind, Choice) else decoded(kind, 0.5)


def row(dimensions: Sequence[Dimension], values: Mapping[str, Any]) -> np.ndarray:
    """Values as numbers: float64 (dimensions,)."""
    return np.array([encoded(each.kind, values[each.name]) for each in dimensions], np.float64)


def at_random(dimensions: Sequence[Dimension], draw: np.random.Generator) -> np.ndarray:
    """Any candidate."""
    return np.array(
        [
            draw.integers(len(each.kind.values)) if isinstance(each.kind, Choice) else draw.random()
            for each in dimensions
        ],
        np.float64,
    )


def first_rows(space: Space) -> list[np.ndarray]:
    """Where to begin: the middle of every range, and each model by itself where what is open are weights of models.

    A model by itself has 1, or what is nearest to it, in its own weights, and what is nearest to 0 in those of the others.
    """
    dimensions = space.dimensions
    models = [str(name) for name in space.document.data.get("models", {})]
    of = {each.name: next((word for word in each.name.split(".") if word in models), None) for each in dimensions}
    rows = [np.array([encoded(each.kind, middle(each.kind)) for each in dimensions], np.float64)]
    if any(isinstance(each.kind, Range) and of[each.name] for each in dimensions):
        for model in dict.fromkeys(filter(None, of.values())):
            alone = rows[0].copy()
            for place, each in enumerate(dimensions):
                if isinstance(each.kind, Range) and of[each.name]:
                    value = 1.0 if of[each.name] == model else 0.0
                    alone[place] = encoded(
                        each.kind, type(each.kind.low)(min(max(value, each.kind.low), each.kind.high))
                    )
            rows.append(alone)
    return rows


def scores_of(items: Mapping[str, Sequence[float]], tasks: Sequence[Task]) -> np.ndarray:
    """What each item gave, between 0 and 1, more is better: float64 (items,). Tasks count alike, whatever their length.

    items: by task, values and weights in turn. A loss counts as the likelihood 2^-loss.
    """
    rows = []
    for task in tasks:
        found = np.array(items[task.name], np.float64)
        values, weights = found[0::2], found[1::2]
        value = values if task.metrics[0].higher else np.exp2(-values)
        rows.append(value * weights / weights.sum())
    return np.concatenate(rows)
