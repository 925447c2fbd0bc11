"""Methods that keep, drop or weigh parts of the spectrum of task vectors, by numpy's direct decompositions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, by_matrix, by_scope, differences
from mergery.testing.reference.spectral import task_vectors, thin


def low_rank(x: Array, count: int) -> Array:
    u, s, vh = thin(x, count)
    return u @ np.diag(s) @ vh


def cart(models: Sequence[Array], base: Array, coins: KeyedUniform, *, rank: float, scale: float) -> Array:
    def merge(matrices: list[Array]) -> Array:
        mean = add(matrices) / len(matrices)
        count = math.ceil(rank * min(mean.shape))
        return mean + scale * add(low_rank(x - mean, count) if (x != mean).any() else 0.0 * x for x in matrices)

    return by_matrix(merge, models)


def star(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    energy: float,
    normalize: bool,
    scale: float,
) -> Array:
    def shortened(delta: Array) -> Array:
        u, s, vh = thin(delta)
        if not s.size or energy == 0.0:
            return 0.0 * delta
        reached = np.cumsum(s) >= energy * s.sum()
        count = int(np.argmax(reached)) + 1 if reached.any() else len(s)
        return s.sum() / s[:count].sum() * u[:, :count] @ np.diag(s[:count]) @ vh[:count]

    def merge(deltas: list[Array]) -> Array:
        merged = add(w * shortened(delta) for w, delta in zip(weight, deltas, strict=True))
        return scale * merged / (sum(weight) if normalize else 1.0)

    return task_vectors(merge, models, base)


def monosoup(models: Sequence[Array], base: Array, coins: KeyedUniform, *, energy: float | None, scale: float) -> Array:
    def merge(deltas: list[Array]) -> Array:
        (delta,) = deltas
        u, s, vh = thin(delta)
        if not s.size:
            return delta
        if energy is None:
            share = s / s.sum()
            count = round(float(np.exp(-(share * np.log(share)).sum())))
        else:
            reached = np.cumsum(s**2) >= energy * (s**2).sum() * (1.0 - 1e-12)
            count = 0 if energy == 0.0 else int(np.argmax(reached)) + 1
        held = (s[:count] ** 2).sum() / (s**2).sum()
        ratio = (s[count] / s[0]) ** 2 if count < len(s) else 0.0
        low = ratio + (1.0 - ratio) * math.sqrt(max(0.0, 1.0 - held)) if count < len(s) else 0.0
        factors = np.where(np.arange(len(s)) < count, 1.0 - low, low)
        return scale * u @ np.diag(s * factors) @ vh

    return task_vectors(merge, models, base)


def unit(x: Array) -> Array:
    return x / (np.linalg.norm(x) or 1.0)


def resmerge(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    heads: int,
    share: float,
    least: float,
    most: float,
    branch: str,
    scale: float,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        k = len(deltas)
        tops = [low_rank(delta, heads) for delta in deltas]
        rests = [delta - top for delta, top in zip(deltas, tops, strict=True)]
        rests = [
            rest * (np.linalg.norm(rest) > 1e-6 * np.linalg.norm(delta))
            for rest, delta in zip(rests, deltas, strict=True)
        ]
        directions = [unit(rest) for rest in rests]
        together = unit(add(directions))
        c = float(np.mean([(own * together).sum() for own in directions]))
        couples = list(itertools.combinations(range(k), 2))
        s = float(np.mean([(directions[i] * directions[j]).sum() for i, j in couples])) if couples else 1.0
        power = most - (most - least) * ((s + 1.0) / 2.0 + (c + 1.0) / 2.0) / 2.0
        plain = add(rests) / k
        aligned = together * np.mean([np.linalg.norm(rest) for rest in rests]) * max(c, 0.0) ** power
        chance = 1.0 / math.sqrt(k)
        way = float(c > chance + 1e-6)
        if branch == "smooth" and k > 1:
            way = min(max((c - chance) / (1.0 - chance), 0.0), 1.0)
        merged = plain + way * (aligned - plain)
        own = [unit(top) for top in tops]
        a = min(1.0, float(np.mean([max(0.0, (own[i] * own[j]).sum()) for i, j in couples])) if couples else 1.0)
        return scale * (merged + share * a * np.linalg.norm(merged) * unit(add(tops)))

    return task_vectors(merge, models, base)


def spectral_filter(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, base_subspace: str, rank: float, scale: float
) -> Array:
    def merge(given: list[Array]) -> Array:
        origin, delta = given
        u, _, vh = thin(origin, math.ceil(rank * min(origin.shape)))
        within = u @ u.T @ delta @ vh.T @ vh
        return scale * (within if base_subspace == "keep" else delta - within)

    return base + by_matrix(merge, [base, *differences(models, base)])


def rebase(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, beta: float, scale: float, scope: str
) -> Array:
    def merge(vectors: list[Array]) -> Array:
        old, tuned = vectors
        own, step = tuned - old, -old
        length = float(step @ step)
        return scale * (own - beta * ((own @ step) / length if length else 0.0) * step)

    return base + by_scope(merge, differences(models, base), scope)


REFERENCES: dict[str, Callable[..., Array]] = {
    "cart": cart,
    "monosoup": monosoup,
    "rebase": rebase,
    "resmerge": resmerge,
    "spectral_filter": spectral_filter,
    "star": star,
}
