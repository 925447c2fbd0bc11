"""Several goals at once: candidates that none beats in all, and the ones among them that a user may want."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def front(scores: np.ndarray) -> list[int]:
    """Places of the points that no other one dominates: is as good in all and better in one. Of equal ones, the first.

    scores: (points, goals), more is better
    """
    kept: list[int] = []
    for place, own in enumerate(scores):
        as_good = (scores >= own).all(axis=1)
        better = as_good & (scores > own).any(axis=1)
        same = (scores[:place] == own).all(axis=1).any() if place else False
        if not better.any() and not same:
            kept.append(place)
    return kept


def knee(scores: np.ndarray) -> int:
    """The place of the point that stands out most over the plane through the extremes of the front.

    Goals are scaled to the range of the front, so that the plane is where they add up to one: it is the point with the
    largest sum. Of several, the one whose least goal is largest.
    """
    scaled = _scaled(scores)
    total = scaled.sum(axis=1)
    best = np.flatnonzero(total >= total.max() - 1e-12)
    return int(best[np.argmax(scaled[best].min(axis=1))])


def _scaled(scores: np.ndarray) -> np.ndarray:
    low, high = scores.min(axis=0), scores.max(axis=0)
    return (scores - low) / np.where(high > low, high - low, 1.0)


def draw(file: Path, names: Sequence[str], scores: np.ndarray, kept: Sequence[int], chosen: int) -> bool:
    """Draw the candidates by their first two goals, with the front and the chosen one. False where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.add_subplot()
    line = sorted(kept, key=lambda place: scores[place, 0])
    axes.scatter(scores[:, 0], scores[:, 1], s=14, color="0.7", label="candidates")
    axes.plot(scores[line, 0], scores[line, 1], marker="o", color="tab:blue", label="that none beats in all")
    axes.scatter(*scores[chosen, :2], s=120, marker="*", color="tab:red", zorder=3, label="chosen")
    axes.set_xlabel(names[0])
    axes.set_ylabel(names[1])
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)
    return True
