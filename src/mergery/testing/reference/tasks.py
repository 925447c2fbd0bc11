"""Methods that choose entries by task: competition, masks, signs, neurons."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, differences, matrix
from mergery.testing.reference.thinning import threshold, trimmed


def pcb(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    density: Any,
    clip: float,
    rivals: str,
    scope: str,
    scale: float,
) -> Array:
    deltas = differences(models, base)
    n, k = base.size, len(deltas)
    if not n:
        return base
    levels, clipped = [], []
    for delta in deltas:
        ordered = np.sort(np.abs(delta).reshape(-1))
        low, high = ordered[math.floor(clip * n)], ordered[n - 1 - math.floor(clip * n)]
        size = np.clip(np.abs(delta), low, high)
        levels.append(np.sign(delta) * ((size - low) / (high - low) if high > low else 1.0))
        clipped.append(np.sign(levels[-1]) * size)
    numerator, divisor = np.zeros_like(base), np.zeros_like(base)
    for level, values, w, p in zip(levels, clipped, weight, density, strict=True):
        others = [add(levels)] if rivals == "sum" else levels
        score = np.exp(k * (level**2 - 1.0)) * np.maximum(add(np.tanh(level * other) for other in others), 0.0)
        cut, top = threshold(score, max(1, math.floor(p * n)) if p > 0.0 else 0), score.max()
        own = np.where((score >= cut) & (score > 0.0), (score - cut) / (top - cut) if top > cut else 1.0, 0.0)
        numerator += w * values * own
        divisor += own
    return base + scale * np.divide(numerator, divisor, out=np.zeros_like(base), where=divisor > 0.0)


def multitask(deltas: Sequence[Array], vector: str, density: Any) -> Array:
    if vector == "sum":
        return add(deltas)
    kept = np.stack([trimmed(delta, p) for delta, p in zip(deltas, density, strict=True)])
    return (kept * (np.sign(kept) == np.where(kept.sum(0) >= 0.0, 1.0, -1.0))).sum(0)


def consensus(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    vector: str,
    threshold: Any,
    k: int,
    density: Any,
    scope: str,
    scale: float,
) -> Array:
    deltas = differences(models, base)
    merged = multitask(deltas, vector, density)
    votes = add(1.0 * (np.abs(delta) > t * np.abs(merged - delta)) for delta, t in zip(deltas, threshold, strict=True))
    return base + scale * np.where(votes >= k, merged, 0.0)


def tall_mask(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    task: int,
    vector: str,
    threshold: Any,
    density: Any,
    scope: str,
) -> Array:
    deltas = differences(models, base)
    merged = multitask(deltas, vector, density)
    return base + np.where(np.abs(deltas[task]) > threshold[task] * np.abs(merged - deltas[task]), merged, 0.0)


def emr(models: Sequence[Array], base: Array, coins: KeyedUniform, *, task: int, scope: str) -> Array:
    deltas = np.stack(differences(models, base))
    sign = np.where(deltas.sum(0) > 0.0, 1.0, -1.0)
    elected = sign * np.where(np.sign(deltas) == sign, np.abs(deltas), 0.0).max(0)
    served = np.where(deltas[task] * sign > 0.0, elected, 0.0)
    length = np.abs(served).sum()
    return base + served * (np.abs(deltas[task]).sum() / length if length > 0.0 else 1.0)


def onebit(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    task: int | None,
    weight: Any,
    binary: bool,
    scope: str,
    scale: float,
) -> Array:
    vectors = []
    for delta in differences(models, base):
        if not binary or delta.ndim < 2 or not delta.size:
            vectors.append(delta)
            continue
        axes = tuple(range(1, delta.ndim)) if scope == "row" else None
        vectors.append(np.where(delta >= 0.0, 1.0, -1.0) * np.abs(delta).mean(axes, keepdims=True))
    if task is not None:
        return base + vectors[task]
    return base + scale * add(w * vector for w, vector in zip(weight, vectors, strict=True))


def elected_mean(values: Array) -> Array:
    """Over axis 0, the mean of the values that have the sign of the sum."""
    agrees = np.sign(values) == np.where(values.sum(0) >= 0.0, 1.0, -1.0)
    return (values * agrees).sum(0) / np.maximum(agrees.sum(0), 1)


def neuromerging(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    density: Any,
    parallel: float,
    orthogonal: float | None,
    restored: float,
    scope: str,
) -> Array:
    deltas = differences(models, base)
    kept = [trimmed(delta, p) for delta, p in zip(deltas, density, strict=True)]
    if base.ndim < 2:
        return base + elected_mean(np.stack(kept))
    if orthogonal is None:
        pairs = [(np.abs(d).sum(), np.abs(t).sum()) for d, t in zip(deltas, kept, strict=True)]
        lost = max((1.0 - left / whole if whole > 0.0 else 0.0 for whole, left in pairs), default=0.0)
        orthogonal = 1.0 / (1.0 - lost) ** restored if lost < 1.0 else 0.0
    rows, weights = np.stack([matrix(t) for t in kept]), matrix(base)
    merged = np.zeros_like(weights)
    for place, neuron in enumerate(weights):
        square = neuron @ neuron
        along = rows[:, place] @ neuron / square if square > 0.0 else np.zeros(len(rows))
        rest = rows[:, place] - along[:, None] * neuron
        u, s, directions = np.linalg.svd(rest, full_matrices=False)
        places = u * s
        places = np.where(np.abs(places) > 1e-6 * np.abs(places).max(initial=0.0), places, 0.0)
        merged[place] = parallel * elected_mean(along) * neuron + orthogonal * elected_mean(places) @ directions
    return base + merged.reshape(base.shape)


REFERENCES: dict[str, Callable[..., Array]] = {
    "consensus": consensus,
    "emr": emr,
    "neuromerging": neuromerging,
    "onebit": onebit,
    "pcb": pcb,
    "tall_mask": tall_mask,
}
