"""Natural niches (M2N2, arXiv 2508.16204): candidates compete for items, and mate with what is strong where they are weak.

An archive holds some candidates and, of each, what every item gave. An item that all solve is shared by all, and is worth
little to any; one that a single candidate solves is worth much to it. The published method crosses the parameters of two
models by spherical interpolation, with weight w before a point and 1 - w behind it; here the open values of two candidates
are crossed so, in the order of the recipe, and the weights are made of them on demand.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mergery.recipe.space import Choice, Dimension

ARCHIVE = 16  # candidates that are kept
COMPETITION = 1.0  # how far an item is shared among those that solve it; 0 is the plain mean


def shared(scores: np.ndarray, competition: float = COMPETITION) -> np.ndarray:
    """What each item is worth to each candidate: its score, over the sum of all candidates' scores to the power given.

    scores: (candidates, items), of 0 or more; returns the same shape. An item that none solves is worth nothing.
    """
    total = scores.sum(axis=0)
    return np.divide(scores, total**competition, out=np.zeros_like(scores), where=total > 0)


def fitness(scores: np.ndarray, competition: float = COMPETITION) -> np.ndarray:
    """The sum of what the items are worth to each candidate: (candidates,)."""
    return shared(scores, competition).sum(axis=1)


def attraction(scores: np.ndarray, first: int, competition: float = COMPETITION) -> np.ndarray:
    """How much each candidate has where the first one lacks it: (candidates,), 0 for the first itself."""
    worth = shared(scores, competition)
    return np.maximum(0.0, worth - worth[first]).sum(axis=1)


def survivors(scores: np.ndarray, size: int = ARCHIVE, competition: float = COMPETITION) -> list[int]:
    """The places of those that are left when candidates come one by one, and the least fit of the archive goes each time."""
    kept: list[int] = []
    for place in range(len(scores)):
        kept.append(place)
        if len(kept) > size:
            kept.pop(int(np.argmin(fitness(scores[kept], competition))))
    return kept


def child(
    rows: np.ndarray, scores: np.ndarray, dimensions: Sequence[Dimension], draw: np.random.Generator
) -> np.ndarray:
    """A child of two candidates: the first by fitness, the second by attraction.

    rows: (candidates, dimensions) of an archive; scores: (candidates, items).
    """
    first = _chosen(fitness(scores), draw)
    pull = attraction(scores, first)
    second = _chosen(pull, draw) if pull.sum() > 0 else int(draw.integers(len(rows)))
    return crossed(rows[first], rows[second], dimensions, draw.random(), int(draw.integers(len(dimensions) + 1)))


def crossed(
    one: np.ndarray, other: np.ndarray, dimensions: Sequence[Dimension], weight: float, point: int
) -> np.ndarray:
    """Two candidates mixed: `weight` of the first one before the point, and of the second one from it on."""
    own = np.where(np.arange(len(one)) < point, weight, 1.0 - weight)
    mixed = own * one + (1.0 - own) * other
    words = np.array([isinstance(each.kind, Choice) for each in dimensions])
    return np.where(words, np.where(own >= 0.5, one, other), mixed)


def _chosen(worth: np.ndarray, draw: np.random.Generator) -> int:
    total = worth.sum()
    return int(draw.choice(len(worth), p=worth / total)) if total > 0 else int(draw.integers(len(worth)))
