"""Matrices between two projections that a model does not see: of queries with keys, and of values with outputs.

A head's keys times M and its queries times M's inverse transpose give the same scores; its values times M and the columns
that read them times M's inverse give the same output. So there are two sides, X times M and Y times M's inverse
transpose, and M is chosen so that both come as close to another model's as they can: the least sum of squared differences.
"""

from __future__ import annotations

import numpy as np

from mergery.architecture.spaces import Attention

Pairs = tuple[tuple[int, int], ...]


def dual(matrix: np.ndarray) -> np.ndarray:
    """What the other side is multiplied with."""
    return np.linalg.inv(matrix).T


def distance(matrix: np.ndarray, xa: np.ndarray, xb: np.ndarray, ya: np.ndarray, yb: np.ndarray) -> float:
    """The sum of squared differences of both sides, each [size, m]."""
    return float(((xa - matrix @ xb) ** 2).sum() + ((ya - dual(matrix) @ yb) ** 2).sum())


def kept(made: np.ndarray, xa: np.ndarray, xb: np.ndarray, ya: np.ndarray, yb: np.ndarray) -> np.ndarray:
    """The matrix, or the identity where that does about as well.

    Sides that agree already, with a cosine of a half or more, are of one lineage: what a matrix gains there is fitted to what
    they have learnt since, unless it takes away half of the difference.
    """
    still = np.eye(len(made))
    before, after = distance(still, xa, xb, ya, yb), distance(made, xa, xb, ya, yb)
    inner = float((xa * xb).sum() + (ya * yb).sum())
    lengths = np.sqrt(float((xa**2).sum() + (ya**2).sum()) * float((xb**2).sum() + (yb**2).sum()))
    if after >= before * (1.0 - 1e-9) or (inner >= 0.5 * lengths and after > 0.5 * before):
        return still
    return made


def any_matrix(xa: np.ndarray, xb: np.ndarray, ya: np.ndarray, yb: np.ndarray) -> np.ndarray:
    """An invertible matrix: the best of the rotation for both sides (Procrustes) and of what one side alone asks for."""
    left, _, right = np.linalg.svd(xa @ xb.T + ya @ yb.T)
    candidates = [np.eye(len(xa)), left @ right, _least_squares(xa, xb)]
    other = _least_squares(ya, yb) if ya.size else candidates[0]
    candidates += [dual(other)] if _sound(other) else []
    return min((made for made in candidates if _sound(made)), key=lambda made: distance(made, xa, xb, ya, yb))


def _least_squares(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(other.T, one.T, rcond=None)[0].T


def _sound(made: np.ndarray) -> bool:
    return bool(np.all(np.isfinite(made)) and np.linalg.cond(made) < 1e4)


def turns(pairs: Pairs, xa: np.ndarray, xb: np.ndarray, ya: np.ndarray, yb: np.ndarray) -> np.ndarray:
    """A turn and a scale of each pair of coordinates.

    With the turn by an angle t and the scale s, of one pair, it is |xa - s R xb|^2 + |ya - R yb / s|^2; for a given s the
    best t is closed, for a given t the best s a root of a quartic. Both in turns, from the t of the sides' directions.
    """
    first, second = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    crossed = [_crossed(a, b, first, second) for a, b in ((xa, xb), (ya, yb))]
    squares = [
        [(side[first] ** 2).sum(1) + (side[second] ** 2).sum(1) for side in each] for each in ((xa, xb), (ya, yb))
    ]
    lengths = [np.sqrt(np.maximum(a * b, 1e-300)) for a, b in squares]
    scale = np.ones(len(first))
    straight = crossed[0][0] / lengths[0] + crossed[1][0] / lengths[1]
    across = crossed[0][1] / lengths[0] + crossed[1][1] / lengths[1]
    angle = np.arctan2(across, straight)
    for _ in range(3):
        cos, sin = np.cos(angle), np.sin(angle)
        inner = [cos * each[0] + sin * each[1] for each in crossed]
        scale = _scales(squares[0][1], squares[1][1], inner[0], inner[1])
        angle = np.arctan2(scale * crossed[0][1] + crossed[1][1] / scale, scale * crossed[0][0] + crossed[1][0] / scale)
    made = np.eye(len(xa))
    made[first, first] = made[second, second] = scale * np.cos(angle)
    made[second, first] = scale * np.sin(angle)
    made[first, second] = -made[second, first]
    return made


def _crossed(
    one: np.ndarray, other: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each pair the two numbers c, s with <one, R other> = c cos t + s sin t."""
    straight = (one[first] * other[first]).sum(1) + (one[second] * other[second]).sum(1)
    across = (one[second] * other[first]).sum(1) - (one[first] * other[second]).sum(1)
    return straight, across


def _scales(x: np.ndarray, y: np.ndarray, inner_x: np.ndarray, inner_y: np.ndarray) -> np.ndarray:
    """The s that minimise x s^2 - 2 inner_x s + y / s^2 - 2 inner_y / s, by Newton's steps in log s from three beginnings."""
    floor = 1e-12 * np.maximum(x + y, 1e-300)
    x, y = np.maximum(x, floor), np.maximum(y, floor)

    def value(u: np.ndarray) -> np.ndarray:
        s = np.exp(u)
        return x * s**2 - 2 * inner_x * s + y / s**2 - 2 * inner_y / s

    found = np.zeros_like(x)
    for start in (
        np.zeros_like(x),
        np.log(np.maximum(inner_x, 1e-6 * x) / x),
        np.log(y / np.maximum(inner_y, 1e-6 * y)),
    ):
        u = np.clip(start, -3.0, 3.0)
        for _ in range(25):
            s = np.exp(u)
            slope = 2 * x * s**2 - 2 * inner_x * s - 2 * y / s**2 + 2 * inner_y / s
            curve = 4 * x * s**2 - 2 * inner_x * s + 4 * y / s**2 - 2 * inner_y / s
            u = np.clip(u - np.clip(slope / np.maximum(np.abs(curve), 1e-300), -0.5, 0.5), -3.0, 3.0)
        found = np.where(value(u) < value(found), u, found)
    return np.exp(found)


def pair_signs(pairs: Pairs, xa: np.ndarray, xb: np.ndarray, ya: np.ndarray, yb: np.ndarray) -> np.ndarray:
    """A sign of each pair of coordinates."""
    first, second = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    inner = _crossed(xa, xb, first, second)[0] + _crossed(ya, yb, first, second)[0]
    made = np.eye(len(xa))
    made[first, first] = made[second, second] = np.where(inner < 0, -1.0, 1.0)
    return made


def of_queries_and_keys(own: Attention, xa: np.ndarray, xb: np.ndarray, ya: np.ndarray, yb: np.ndarray) -> np.ndarray:
    """The matrix of a key head, of the form that its positions and norms do not see: keys are x, its queries y."""
    if own.free == "any":
        return any_matrix(xa, xb, ya, yb)
    made = np.eye(own.size)
    if own.free == "signs":
        return pair_signs(own.pairs, xa, xb, ya, yb) if own.pairs else made
    if own.free == "planes":
        made = turns(own.pairs, xa, xb, ya, yb) if own.pairs else made
        rest = [place for place in range(own.size) if all(place not in pair for pair in own.pairs)]
        if rest:
            made[np.ix_(rest, rest)] = any_matrix(xa[rest], xb[rest], ya[rest], yb[rest])
    return made
