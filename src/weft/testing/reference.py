"""Naive float64 references of the methods, written from their equations on plain numpy arrays.

They share no code with the methods and care for neither speed nor memory. Each takes
`(models, base, coins, **settings)`: lists of float64 arrays, the base or None, `coins(i)` giving the uniform numbers of
model i, and every setting (per-model settings as sequences); it returns the merged array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
Coins = Callable[[int], Array]


def add(terms: Iterable[Array]) -> Array:
    return np.add.reduce(list(terms))


# --- spans --------------------------------------------------------------------------------------------------------


def matrix(x: Array) -> Array:
    """A tensor as a matrix of output neurons; a vector is one row."""
    return x.reshape(1, -1) if x.ndim < 2 else x.reshape(x.shape[0], math.prod(x.shape[1:]))


def by_scope(merge: Callable[[list[Array]], Array], vectors: Sequence[Array], scope: str) -> Array:
    """Merge whole tensors, their rows one by one, or their columns one by one; a vector is one row either way."""
    if scope == "tensor" or vectors[0].ndim < 2:
        return merge([x.reshape(-1) for x in vectors]).reshape(vectors[0].shape)
    matrices = [matrix(x) if scope == "row" else matrix(x).T for x in vectors]
    merged = np.zeros_like(matrices[0])
    for index in range(len(merged)):
        merged[index] = merge([x[index] for x in matrices])
    return (merged if scope == "row" else merged.T).reshape(vectors[0].shape)


def differences(models: Sequence[Array], base: Array | None) -> list[Array]:
    return [x - base for x in models] if base is not None else list(models)


# --- linear methods -----------------------------------------------------------------------------------------------


def linear(models: Sequence[Array], base: Array | None, coins: Coins, *, weight: Any, normalize: bool) -> Array:
    total = add(w * x for w, x in zip(weight, models, strict=True))
    return total / math.fsum(weight) if normalize else total


def task_arithmetic(
    models: Sequence[Array], base: Array, coins: Coins, *, weight: Any, scale: float, normalize: bool
) -> Array:
    return base + scale * linear(differences(models, base), None, coins, weight=weight, normalize=normalize)


def passthrough(models: Sequence[Array], base: Array | None, coins: Coins, *, scale: float) -> Array:
    return scale * models[0]


# --- the sphere ---------------------------------------------------------------------------------------------------


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
    coins: Coins,
    *,
    t: float | None,
    weight: Any,
    scope: str,
    lerp_above: float,
) -> Array:
    def fold(vectors: list[Array]) -> Array:
        merged = vectors[0]
        for index in range(1, len(vectors)):
            way = weight[index] / sum(weight[: index + 1]) if t is None else t
            merged = between(merged, vectors[index], way, lerp_above)
        return merged

    return by_scope(fold, models, scope)


def nuslerp(models: Sequence[Array], base: Array | None, coins: Coins, *, weight: Any, scope: str) -> Array:
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
    coins: Coins,
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
    coins: Coins,
    *,
    weight: Any,
    max_iter: int,
    tol: float,
    scope: str,
) -> Array:
    mass = [w / sum(weight) for w in weight]
    return by_scope(lambda vectors: spherical(vectors, mass, max_iter, tol), models, scope)


def model_stock(models: Sequence[Array], base: Array, coins: Coins, *, scope: str, clamp: bool) -> Array:
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


# --- thinned task vectors -----------------------------------------------------------------------------------------


def fuse(deltas: Sequence[Array], base: Array, weight: Any, *, elect: bool, normalize: bool, scale: float) -> Array:
    weighed = np.stack([w * d for w, d in zip(weight, deltas, strict=True)])
    weights = np.stack([np.full(base.shape, float(w)) for w in weight])
    if elect:
        sign = np.where(weighed.sum(0) >= 0.0, 1.0, -1.0)
        agrees = np.sign(weighed) == sign
        weighed, weights = weighed * agrees, weights * agrees
    total, share = weighed.sum(0), weights.sum(0)
    if normalize:
        total = np.divide(total, share, out=np.zeros_like(total), where=share != 0.0)
    return base + scale * total


def same_l1(thinned: Array, whole: Array) -> Array:
    kept = np.abs(thinned).sum()
    return thinned * (np.abs(whole).sum() / kept) if kept > 0.0 else thinned


def ties(
    models: Sequence[Array],
    base: Array,
    coins: Coins,
    *,
    weight: Any,
    density: Any,
    scope: str,
    rescale: str,
    normalize: bool,
    scale: float,
) -> Array:
    deltas = []
    for delta, p in zip(differences(models, base), density, strict=True):
        size = np.sort(np.abs(delta).reshape(-1))[::-1]
        count = max(1, math.floor(p * size.size)) if p > 0.0 else 0
        cut = size[count - 1] if 0 < count <= size.size else math.inf
        trimmed = np.where(np.abs(delta) >= cut, delta, 0.0)
        deltas.append(same_l1(trimmed, delta) if rescale == "l1" else trimmed)
    return fuse(deltas, base, weight, elect=True, normalize=normalize, scale=scale)


def dropped(delta: Array, coin: Array, chance: Array | float, rescale: str) -> Array:
    """Entries whose coin falls below their chance, rescaled."""
    kept = np.where(coin < chance, delta, 0.0)
    if rescale == "probability":
        kept = np.divide(kept, chance, out=np.zeros_like(kept), where=kept != 0.0)
    return same_l1(kept, delta) if rescale == "l1" else kept


def dare(elect: bool) -> Callable[..., Array]:
    def merge(
        models: Sequence[Array],
        base: Array,
        coins: Coins,
        *,
        weight: Any,
        density: Any,
        rescale: str,
        normalize: bool,
        scale: float,
    ) -> Array:
        deltas = [
            dropped(delta, coins(index), float(np.float32(density[index])), rescale)
            for index, delta in enumerate(differences(models, base))
        ]
        return fuse(deltas, base, weight, elect=elect, normalize=normalize, scale=scale)

    return merge


def ramp(delta: Array, density: float, window: float) -> Array:
    chance = np.empty_like(matrix(delta))
    for row, values in zip(chance, matrix(delta), strict=True):
        n = len(values)
        for rank, place in enumerate(np.argsort(np.abs(values), kind="stable")):
            row[place] = density - window / 2 + window * rank / (n - 1) if n > 1 else density
    return chance.astype(np.float32).astype(np.float64).reshape(delta.shape)


def della(elect: bool) -> Callable[..., Array]:
    def merge(
        models: Sequence[Array],
        base: Array,
        coins: Coins,
        *,
        weight: Any,
        density: Any,
        window: Any,
        rescale: str,
        normalize: bool,
        scale: float,
    ) -> Array:
        deltas = [
            dropped(delta, coins(index), ramp(delta, density[index], window[index]), rescale)
            for index, delta in enumerate(differences(models, base))
        ]
        return fuse(deltas, base, weight, elect=elect, normalize=normalize, scale=scale)

    return merge


def between_ranks(values: Array, density: float, gamma: float, *, ties: bool) -> Array:
    """Keep the middle of a vector by magnitude; with `ties`, also what equals its first or last."""
    n = values.size
    keep = max(1, math.floor(density * n)) if density > 0.0 else 0
    drop = min(math.floor(gamma * n), n - min(n, keep))
    order = np.argsort(-np.abs(values), kind="stable")[drop : drop + keep]
    kept = np.zeros_like(values)
    kept[order] = values[order]
    if ties and order.size:
        size = np.abs(values)
        kept = np.where((size <= size[order[0]]) & (size >= size[order[-1]]), values, 0.0)
    return kept


def breadcrumbs(elect: bool) -> Callable[..., Array]:
    def merge(
        models: Sequence[Array],
        base: Array,
        coins: Coins,
        *,
        weight: Any,
        density: Any,
        gamma: Any,
        scope: str,
        rescale: str,
        normalize: bool,
        scale: float,
    ) -> Array:
        deltas = []
        for delta, p, g in zip(differences(models, base), density, gamma, strict=True):
            rows = matrix(delta) if scope == "row" else delta.reshape(1, -1)
            kept = np.array([between_ranks(row, p, g, ties=scope == "tensor") for row in rows])
            kept = kept.reshape(delta.shape)
            deltas.append(same_l1(kept, delta) if rescale == "l1" else kept)
        return fuse(deltas, base, weight, elect=elect, normalize=normalize, scale=scale)

    return merge


# --- other methods ------------------------------------------------------------------------------------------------


def sce(
    models: Sequence[Array],
    base: Array,
    coins: Coins,
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


def nearswap(models: Sequence[Array], base: Array, coins: Coins, *, t: float) -> Array:
    gap = np.abs(models[0] - base)
    w = np.clip(np.divide(t, gap, out=np.ones_like(base), where=gap > 0.0), 0.0, 1.0)
    return w * models[0] + (1.0 - w) * base


def arcee_fusion(models: Sequence[Array], base: Array, coins: Coins) -> Array:
    if not base.size:
        return base
    x, b = matrix(models[0]), matrix(base)
    p, q = (np.exp(y - y.max(1, keepdims=True)) for y in (x, b))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    importance = np.abs(x - b) * (p * np.log(p / q)).sum(1, keepdims=True)
    low, median, high = np.quantile(importance, [0.25, 0.5, 0.75], method="lower")
    return np.where(importance >= median + 1.5 * (high - low), x, b).reshape(base.shape)


def ram(models: Sequence[Array], base: Array, coins: Coins, *, epsilon: float, scale: float) -> Array:
    return ramplus_tl(models, base, coins, epsilon=epsilon, r=0.0, alpha=0.0, scale=scale)


def ramplus_tl(
    models: Sequence[Array], base: Array, coins: Coins, *, epsilon: float, r: float, alpha: float, scale: float
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


REFERENCES: dict[str, Callable[..., Array]] = {
    "arcee_fusion": arcee_fusion,
    "breadcrumbs": breadcrumbs(elect=False),
    "breadcrumbs_ties": breadcrumbs(elect=True),
    "dare_linear": dare(elect=False),
    "dare_ties": dare(elect=True),
    "della": della(elect=True),
    "della_linear": della(elect=False),
    "karcher": karcher,
    "linear": linear,
    "model_stock": model_stock,
    "multislerp": multislerp,
    "nearswap": nearswap,
    "nuslerp": nuslerp,
    "passthrough": passthrough,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
    "sce": sce,
    "slerp": slerp,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
}
