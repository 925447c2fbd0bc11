"""Methods that choose among entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, differences, matrix


def sce(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    select_topk: float,
    select_applies_to: str,
    scale: float,
) -> Array:
    deltas = np.stack(differences(models, base))
    chosen = deltas
    if select_topk < 1.0:
        variance = deltas.var(0)
        count = math.floor(select_topk * np.count_nonzero(variance))
        cut = np.sort(variance.reshape(-1))[::-1][count - 1] if count else math.inf
        chosen = np.where(variance >= cut, deltas, 0.0)
    energy = (chosen**2).reshape(len(deltas), -1).sum(1)
    weight = energy / energy.sum() if energy.sum() > 0.0 else np.full(len(deltas), 1.0 / len(deltas))
    values = chosen if select_applies_to == "values" else deltas
    sign = np.where(values.sum(0) >= 0.0, 1.0, -1.0)
    shares = weight.reshape(-1, *[1] * base.ndim) * (np.sign(values) == sign)
    total = shares.sum(0)
    merged = np.divide((shares * values).sum(0), total, out=np.zeros_like(base), where=total != 0.0)
    return base + scale * merged


def nearswap(models: Sequence[Array], base: Array, coins: KeyedUniform, *, t: float) -> Array:
    gap = np.abs(models[0] - base)
    w = np.clip(np.divide(t, gap, out=np.ones_like(base), where=gap > 0.0), 0.0, 1.0)
    return w * models[0] + (1.0 - w) * base


def arcee_fusion(models: Sequence[Array], base: Array, coins: KeyedUniform) -> Array:
    if not base.size:
        return base
    x, b = matrix(models[0]), matrix(base)
    p, q = (np.exp(y - y.max(1, keepdims=True)) for y in (x, b))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    importance = np.abs(x - b) * (p * np.log(p / q)).sum(1, keepdims=True)
    low, median, high = np.quantile(importance, [0.25, 0.5, 0.75], method="lower")
    return np.where(importance >= median + 1.5 * (high - low), x, b).reshape(base.shape)


def ram(models: Sequence[Array], base: Array, coins: KeyedUniform, *, epsilon: float, scale: float) -> Array:
    return ramplus_tl(models, base, coins, epsilon=epsilon, r=0.0, alpha=0.0, scale=scale)


def ramplus_tl(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, epsilon: float, r: float, alpha: float, scale: float
) -> Array:
    deltas = [delta.reshape(-1) for delta in differences(models, base)]
    merged = np.zeros(base.size)
    owners = [
        [index for index, delta in enumerate(deltas) if abs(delta[place]) > epsilon] for place in range(base.size)
    ]
    factor = []
    for index in range(len(deltas)):
        alone = sum(1 for those in owners if those == [index])
        together = sum(1 for those in owners if index in those and len(those) > 1)
        factor.append(1.0 + r * min(together / alone if alone else alpha, alpha))
    for place, those in enumerate(owners):
        if len(those) == 1:
            merged[place] = factor[those[0]] * deltas[those[0]][place]
        elif those:
            merged[place] = sum(deltas[index][place] for index in those) / len(those)
    return base + scale * merged.reshape(base.shape)


def magmax(models: Sequence[Array], base: Array, coins: KeyedUniform, *, scale: float) -> Array:
    deltas = np.stack(differences(models, base))
    largest = np.abs(deltas).max(0)
    return base + scale * np.where((deltas == largest).any(0), largest, -largest)


def clamp(models: Sequence[Array], base: Array | None, coins: KeyedUniform) -> Array:
    others = np.stack(models[1:])
    return np.clip(models[0], others.min(0), others.max(0))


def train_difference(models: Sequence[Array], base: Array, coins: KeyedUniform, *, scale: float) -> Array:
    before, after = models
    gap, step = np.abs(after - base), np.abs(after - before)
    factor = np.divide(1.8 * gap, gap + step, out=np.zeros_like(base), where=gap + step > 0.0)
    return base + scale * factor * (after - before)


def trust_region(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, weight: Any, drop: float, scope: str, scale: float
) -> Array:
    deltas = differences(models, base)
    clash = np.zeros_like(base)
    for i, one in enumerate(deltas):
        for j, other in enumerate(deltas):
            if i != j:
                clash = clash + np.abs(one) * np.abs(other)
    clash = np.sqrt(clash).astype(np.float32)
    count = max(1, math.floor(drop * base.size)) if drop > 0.0 and base.size else 0
    cut = np.sort(clash.reshape(-1))[::-1][count - 1] if count else math.inf
    total = add(w * delta for w, delta in zip(weight, deltas, strict=True))
    return base + scale * np.where((clash < cut) | (clash == 0.0), total, 0.0)


REFERENCES: dict[str, Callable[..., Array]] = {
    "arcee_fusion": arcee_fusion,
    "clamp": clamp,
    "magmax": magmax,
    "nearswap": nearswap,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
    "sce": sce,
    "train_difference": train_difference,
    "trust_region": trust_region,
}
