"""Weighted sums of models and task vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, by_scope, differences


def linear(models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, weight: Any, normalize: bool) -> Array:
    total = add(w * x for w, x in zip(weight, models, strict=True))
    return total / math.fsum(weight) if normalize else total


def task_arithmetic(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, weight: Any, scale: float, normalize: bool
) -> Array:
    return base + scale * linear(differences(models, base), None, coins, weight=weight, normalize=normalize)


def passthrough(models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, scale: float) -> Array:
    return scale * models[0]


def analogy(models: Sequence[Array], base: Array, coins: KeyedUniform, *, scale: float) -> Array:
    return base + scale * (models[1] - models[0])


def expo(models: Sequence[Array], base: Array, coins: KeyedUniform, *, alpha: float) -> Array:
    return models[0] + alpha * (models[0] - base)


def run_average(
    models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, by: str, alpha: float, last: int | None
) -> Array:
    window = list(models if last is None else models[-last:])
    n = len(window)
    if by == "exponential":
        mean = window[0]
        for model in window[1:]:
            mean = alpha * model + (1.0 - alpha) * mean
        return mean
    if by == "weighted":
        return add((i + 1) * model for i, model in enumerate(window)) / (n * (n + 1) / 2)
    decays = {
        "simple": lambda place: 1.0 - place,
        "cosine": lambda place: (1.0 + math.cos(math.pi * place)) / 2.0,
        "sqrt": lambda place: 1.0 - math.sqrt(place),
    }
    result = window[0]
    for step in range(1, n):  # the updates of the run, each as a decayed learning rate would have made it
        result = result + decays[by](step / n) * (window[step] - window[step - 1])
    return result


def metagpt(models: Sequence[Array], base: Array, coins: KeyedUniform, *, scale: float, scope: str) -> Array:
    deltas = differences(models, base)
    energy = [float((delta**2).sum()) for delta in deltas]
    whole = sum(energy) or 1.0
    return base + scale * add(e / whole * delta for e, delta in zip(energy, deltas, strict=True))


def balanced(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, by: str, weight: Any, scale: float, scope: str
) -> Array:
    deltas = [delta.reshape(-1) for delta in differences(models, base)]
    sizes = [float(np.linalg.norm(delta)) for delta in deltas]
    moving = [(w, delta, size) for w, delta, size in zip(weight, deltas, sizes, strict=True) if size > 0.0]
    if not moving:
        return base
    if by == "norm":
        share = sum(w / size for w, _, size in moving)
        merged = add(w / size / share * delta for w, delta, size in moving)
    else:
        units = np.stack([delta / size for _, delta, size in moving])
        wanted = np.array([w for w, _, _ in moving]) / np.mean(weight)
        radius = sum(size for *_, size in moving) / len(moving)
        merged = radius * np.linalg.pinv(units, rcond=math.sqrt(1e-3)) @ wanted
    return base + scale * merged.reshape(base.shape)


def negation(models: Sequence[Array], base: Array, coins: KeyedUniform, *, scale: float, scope: str) -> Array:
    def without(vectors: list[Array]) -> Array:
        target, *controls = vectors
        units = [control / np.linalg.norm(control) for control in controls if np.linalg.norm(control) > 0.0]
        if not units:
            return target
        matrix = np.stack(units)
        return target - np.linalg.pinv(matrix, rcond=1e-3) @ (matrix @ target)

    return base - scale * by_scope(without, differences(models, base), scope)


def geometric_median(
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

    def median(vectors: list[Array]) -> Array:
        for here in vectors:
            pull, near = np.zeros_like(here), 0.0
            for w, other in zip(mass, vectors, strict=True):
                gap = float(np.linalg.norm(other - here))
                if gap > 0.0:
                    pull = pull + w * (other - here) / gap
                else:
                    near += w
            if np.linalg.norm(pull) < near * (1.0 - 1e-9):
                return here
        point = add(w * x for w, x in zip(mass, vectors, strict=True))
        for _ in range(2000):
            inverse = [w / max(float(np.linalg.norm(x - point)), 1e-300) for w, x in zip(mass, vectors, strict=True)]
            there = add(i * x for i, x in zip(inverse, vectors, strict=True)) / sum(inverse)
            done = np.linalg.norm(there - point) <= 1e-12 * max(np.linalg.norm(x - vectors[0]) for x in vectors)
            point = there
            if done:
                break
        return point

    return by_scope(median, models, scope)


def cosine_add(models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, t: float, scope: str) -> Array:
    def blend(vectors: list[Array]) -> Array:
        x, y = vectors
        size = float(np.linalg.norm(x) * np.linalg.norm(y))
        share = 1.0 - min(max((float(x @ y) / size if size > 0.0 else 0.0) - t, 0.0), 1.0)
        return (1.0 - share) * x + share * y

    return by_scope(blend, models, scope)


REFERENCES: dict[str, Callable[..., Array]] = {
    "analogy": analogy,
    "balanced": balanced,
    "cosine_add": cosine_add,
    "expo": expo,
    "geometric_median": geometric_median,
    "linear": linear,
    "metagpt": metagpt,
    "negation": negation,
    "passthrough": passthrough,
    "run_average": run_average,
    "task_arithmetic": task_arithmetic,
}
