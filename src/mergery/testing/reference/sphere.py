"""Interpolation and means on the sphere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, by_scope, differences


def angle(u: Array, v: Array) -> float:
    """Between unit vectors, exact near 0 and 180 degrees (Kahan)."""
    return 2.0 * math.atan2(float(np.linalg.norm(u - v)), float(np.linalg.norm(u + v)))


def between(x: Array, y: Array, t: float, lerp_above: float = 1.0) -> Array:
    """Slerp of two vectors with their own lengths."""
    a, b = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if a == 0.0 or b == 0.0:
        return (1.0 - t) * x + t * y
    turn = angle(x / a, y / b)
    if turn < 1e-9 or math.pi - turn < 4e-5 or abs(math.cos(turn)) > lerp_above:
        return (1.0 - t) * x + t * y
    return (math.sin((1.0 - t) * turn) * x + math.sin(t * turn) * y) / math.sin(turn)


def slerp(
    models: Sequence[Array],
    base: Array | None,
    coins: KeyedUniform,
    *,
    t: float | None,
    weight: Any,
    scope: str,
    lerp_above: float,
    tree: str,
) -> Array:
    def merge(vectors: list[Array], mass: list[float]) -> Array:
        n = len(vectors)
        if n == 1:
            return vectors[0]
        half = n - 1
        if tree == "balanced":
            half = 1
            while 2 * half < n:
                half *= 2
        left, right = merge(vectors[:half], mass[:half]), merge(vectors[half:], mass[half:])
        return between(left, right, sum(mass[half:]) / sum(mass) if t is None else t, lerp_above)

    return by_scope(lambda vectors: merge(vectors, list(weight)), models, scope)


def nuslerp(models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, weight: Any, scope: str) -> Array:
    total = weight[0] + weight[1]
    t = weight[1] / total if abs(total) > 1e-12 * (abs(weight[0]) + abs(weight[1])) else 0.5
    merged = by_scope(lambda pair: between(pair[0], pair[1], t), differences(models, base), scope)
    return merged if base is None else base + merged


def logarithm(mean: Array, u: Array) -> Array:
    turn = angle(mean, u)
    if turn < 1e-12 or math.pi - turn < 4e-5:
        return np.zeros_like(u)
    return turn / math.sin(turn) * (u - math.cos(turn) * mean)


def exponential(mean: Array, step: Array) -> Array:
    size = float(np.linalg.norm(step))
    return mean if size == 0.0 else math.cos(size) * mean + math.sin(size) * step / size


def spherical(vectors: list[Array], mass: Sequence[float], steps: int, tol: float, flat: bool = False) -> Array:
    """Mean direction after some steps of the Karcher iteration, times the weighted length."""
    sizes = [float(np.linalg.norm(x)) for x in vectors]
    units = [(w, x / size) for w, x, size in zip(mass, vectors, sizes, strict=True) if size > 0.0]
    if not units:
        return np.zeros_like(vectors[0])
    share = sum(w for w, _ in units)
    mean = add(w * u for w, u in units) / share
    if np.linalg.norm(mean) < 1e-7:
        return add(w * x for w, x in zip(mass, vectors, strict=True))
    mean = mean / float(np.linalg.norm(mean))
    for _ in range(steps):
        if flat:
            step = add(w * (u - (u @ mean) * mean) for w, u in units) / share
        else:
            step = add(w * logarithm(mean, u) for w, u in units) / share
        if np.linalg.norm(step) < tol:
            break
        mean = exponential(mean, step)
    return sum(w * size for w, size in zip(mass, sizes, strict=True)) * mean


def multislerp(
    models: Sequence[Array],
    base: Array | None,
    coins: KeyedUniform,
    *,
    weight: Any,
    normalize: bool,
    tangent: str,
    scope: str,
) -> Array:
    mass = [w / sum(weight) for w in weight] if normalize else list(weight)
    merged = by_scope(
        lambda vectors: spherical(vectors, mass, 1, 0.0, flat=tangent == "projection"),
        differences(models, base),
        scope,
    )
    return merged if base is None else base + merged


def karcher(
    models: Sequence[Array],
    base: Array | None,
    coins: KeyedUniform,
    *,
    weight: Any,
    max_iter: int,
    tol: float,
    scope: str,
) -> Array:
    mass = [w / sum(weight) for w in weight]
    return by_scope(lambda vectors: spherical(vectors, mass, max_iter, tol), models, scope)


def model_stock(models: Sequence[Array], base: Array, coins: KeyedUniform, *, scope: str, clamp: bool) -> Array:
    def towards_mean(vectors: list[Array]) -> Array:
        n = len(vectors)
        pairs = []
        for i in range(n):
            for j in range(i):
                size = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
                pairs.append(float(vectors[i] @ vectors[j] / size) if size > 0.0 else 0.0)
        c = sum(pairs) / len(pairs)
        denominator = 1.0 + (n - 1) * c
        t = n * c / denominator if abs(denominator) > 1e-12 * n else 0.0
        t = min(max(t, 0.0), 1.0) if clamp else t
        return t * add(vectors) / n

    return base + by_scope(towards_mean, differences(models, base), scope)


REFERENCES: dict[str, Callable[..., Array]] = {
    "karcher": karcher,
    "model_stock": model_stock,
    "multislerp": multislerp,
    "nuslerp": nuslerp,
    "slerp": slerp,
}
