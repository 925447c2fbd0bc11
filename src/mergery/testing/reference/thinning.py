"""Methods that thin task vectors before they add them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, differences, fuse, matrix


def same_l1(thinned: Array, whole: Array) -> Array:
    kept = np.abs(thinned).sum()
    return thinned * (np.abs(whole).sum() / kept) if kept > 0.0 else thinned


def threshold(values: Array, count: int) -> float:
    """The value of the entry with this rank from the largest; infinity at 0, 0 behind the last."""
    ordered = np.sort(values.reshape(-1))[::-1]
    return math.inf if count <= 0 else float(ordered[count - 1]) if count <= ordered.size else 0.0


def trimmed(delta: Array, density: float, more: int = 0) -> Array:
    """The largest entries of a task vector, and what ties with the last of them."""
    count = max(1 - more, math.floor(density * delta.size)) + more if density > 0.0 else 0
    return np.where(np.abs(delta) >= threshold(np.abs(delta), count), delta, 0.0)


def ties(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    density: Any,
    scope: str,
    keep: str,
    zero: str,
    rescale: str,
    function: str,
    vote: str,
    scale: float,
) -> Array:
    deltas = []
    for delta, p in zip(differences(models, base), density, strict=True):
        kept = trimmed(delta, p, 1 if keep == "one_more" else 0)
        deltas.append(same_l1(kept, delta) if rescale == "l1" else kept)
    weighed = np.stack([w * d for w, d in zip(weight, deltas, strict=True)])
    ballots = np.stack(deltas) if vote == "alike" else weighed
    sign = np.sign(ballots.sum(0))
    even = -1.0 if zero == "majority" and sign.sum() < 0.0 else 1.0
    agrees = np.sign(ballots) == np.where(sign == 0.0, even, sign)
    if function == "max":
        size = np.abs(weighed) * agrees
        total = np.take_along_axis(weighed * agrees, size.argmax(0)[None], 0)[0]
    else:
        total = (weighed * agrees).sum(0)
    if function == "mean":
        share = (np.reshape(weight, (-1, *[1] * base.ndim)) * agrees).sum(0)
        total = np.divide(total, share, out=np.zeros_like(total), where=share != 0.0)
    return base + scale * total


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
        coins: KeyedUniform,
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
        coins: KeyedUniform,
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
        coins: KeyedUniform,
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


REFERENCES: dict[str, Callable[..., Array]] = {
    "breadcrumbs": breadcrumbs(elect=False),
    "breadcrumbs_ties": breadcrumbs(elect=True),
    "dare_linear": dare(elect=False),
    "dare_ties": dare(elect=True),
    "della": della(elect=True),
    "della_linear": della(elect=False),
    "ties": ties,
}
