"""ZipIt!: units of two models merged into groups, also units of one model with one another (arXiv 2305.03053).

The most alike pair of groups is merged, again and again, until as many are left as each model has units. A merged group is as
like another as the less alike of its parts, times `decay`. Each model may merge so many of its own units as its budget says.
A group's unit is the average of its members (M), and each member is read back as its group (U): M U = I.
"""

from __future__ import annotations

import numpy as np

from mergery.views.transforms import SoftMap, Units


def grouped(alike: np.ndarray, count: int, budget: float, decay: float) -> np.ndarray:
    """The groups of the units of two models, int64 [2 count], numbered from 0 to count - 1.

    alike:  correlations, float64 [2 count, 2 count], those of the first model's units first.
    budget: the share of a model's units that may be merged with others of it.

    Groups have the places of the first model's units in them; those of the second alone take the places that are left. Greedy,
    with the best partner of each group kept: about (2 count)^2 steps.
    """
    size = 2 * count
    scores = alike.astype(np.float64)
    np.fill_diagonal(scores, -np.inf)
    groups = np.arange(size)
    holds = np.zeros((2, size), bool)  # which groups have units of each model
    holds[0, :count] = holds[1, count:] = True
    left = np.full(2, int(budget * count + 1e-6))
    for model in range(2):
        if not left[model]:
            _forbid(scores, holds[model])
    best = scores.argmax(1)
    values = scores[np.arange(size), best]
    for _ in range(count):
        one = int(values.argmax())
        first, second = sorted((one, int(best[one])))
        within = holds[:, first] & holds[:, second]
        merged = np.minimum(scores[first], scores[second]) * decay
        merged[first] = merged[second] = -np.inf
        groups[groups == second] = first
        holds[:, first] |= holds[:, second]
        holds[:, second] = False
        scores[first] = scores[:, first] = merged
        scores[second] = scores[:, second] = -np.inf
        spent = within & (left == 1)
        left -= within
        stale = (best == first) | (best == second)
        for model in range(2):
            if spent[model]:
                _forbid(scores, holds[model])
                stale[:] = True
            elif not left[model] and holds[model, first]:
                scores[first, holds[model]] = scores[holds[model], first] = -np.inf
        stale[first] = True
        rows = np.flatnonzero(stale)
        best[rows] = scores[rows].argmax(1)
        values[rows] = scores[rows, best[rows]]
    return _numbered(groups, count)


def _forbid(scores: np.ndarray, held: np.ndarray) -> None:
    """No more merges of groups that both have units of a model."""
    scores[np.ix_(held, held)] = -np.inf


def _numbered(groups: np.ndarray, count: int) -> np.ndarray:
    """Groups by the place of their first unit in the first model; those without take the places that are left, in order."""
    names = np.unique(groups)
    place = {int(name): int(name) for name in names if name < count}
    free = iter(sorted(set(range(count)) - set(place.values())))
    place |= {int(name): next(free) for name in names if name >= count}
    return np.array([place[int(name)] for name in groups], np.int64)


def zip_maps(groups: np.ndarray, count: int) -> tuple[SoftMap | Units, SoftMap | Units]:
    """What is done to the units of both models, each times two, so that the average of both is the zipped model.

    Where each group is a pair of one unit of each, these are orders of units.
    """
    own = groups[:count], groups[count:]
    if all(np.array_equal(np.sort(each), np.arange(count)) for each in own):
        return Units(np.argsort(own[0])), Units(np.argsort(own[1]))
    mass = (np.bincount(groups, minlength=count) / 2).astype(np.float32)
    one, other = (SoftMap(np.ascontiguousarray(np.eye(count, dtype=np.float32)[:, each]), mass) for each in own)
    return one, other
