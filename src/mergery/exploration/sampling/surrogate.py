"""A quadratic function through what was tried, and where it is largest (as MAP, arXiv 2406.07529, takes one for each task).

Of n numbers it has (n + 1)(n + 2) / 2 terms, so many candidates are tried first; each later one is where the function through
all of them is largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

POOL = 2048  # points among which the first ones are chosen, and the largest value is looked for
RIDGE = 1e-6  # of the mean square of a term
STEPS = 100  # of ascent from the best point of the pool


def terms(count: int) -> int:
    """Terms of a quadratic function of so many numbers."""
    return (count + 1) * (count + 2) // 2


def quadratic(points: np.ndarray) -> np.ndarray:
    """The terms of a quadratic function: 1, x_i, and x_i x_j. points: (n, d); returns (n, (d + 1)(d + 2) / 2)."""
    count = points.shape[1]
    products = [points[:, i] * points[:, j] for i in range(count) for j in range(i, count)]
    return np.column_stack([np.ones(len(points)), points, *products])


def spread(points: np.ndarray, count: int, begin: Sequence[int] = ()) -> list[int]:
    """Places of points that determine a quadratic function well: each next one adds most to what the others do not span.

    begin: places that are taken first.
    """
    left = quadratic(points - points.mean(axis=0)).copy()
    left /= np.abs(left).max(axis=0, initial=1e-300)
    chosen: list[int] = []
    for number in range(count):
        norms = np.linalg.norm(left, axis=1)
        norms[chosen] = -math.inf
        place = begin[number] if number < len(begin) else int(np.argmax(norms))
        chosen.append(place)
        direction = left[place] / max(float(norms[place]), 1e-300)
        left = left - np.outer(left @ direction, direction)
    return chosen


def first_points(count: int, draw: np.random.Generator) -> np.ndarray:
    """Points of the unit cube that determine the function, the middle first: (terms, count)."""
    corners = draw.integers(0, 3, (POOL, count)) / 2.0  # of three levels, as such a function wants
    pool = np.vstack([np.full((1, count), 0.5), corners])
    return pool[spread(pool, terms(count), begin=(0,))]


def fitted(points: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The coefficients of the function through points of the unit cube, a little shrunk: (terms,)."""
    columns = quadratic(points - 0.5)
    penalty = RIDGE * len(points) * np.eye(columns.shape[1])
    penalty[0, 0] = 0.0
    return np.linalg.solve(columns.T @ columns + penalty, columns.T @ scores)


def largest(coefficients: np.ndarray, count: int, draw: np.random.Generator) -> np.ndarray:
    """Where the function is largest in the unit cube: the best of many points, moved uphill within it."""
    pool = draw.random((POOL, count)) - 0.5
    point = pool[int(np.argmax(quadratic(pool) @ coefficients))]
    slope, curve = coefficients[1 : count + 1], np.zeros((count, count))
    curve[np.triu_indices(count)] = coefficients[count + 1 :]
    curve = curve + curve.T
    step = 1.0 / max(float(np.abs(np.linalg.eigvalsh(curve)).max(initial=0.0)), 1e-9)
    for _ in range(STEPS):
        point = np.clip(point + step * (slope + curve @ point), -0.5, 0.5)
    return point + 0.5
