"""Methods on the singular vectors of task vectors, by numpy's direct decompositions of each matrix."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, by_matrix, differences, fuse
from mergery.testing.reference.thinning import threshold

RANK = 1e-6


def thin(x: Array, top: int | None = None, of: float = 0.0) -> tuple[Array, Array, Array]:
    """The leading singular triplets, as many as the numerical rank and `top` allow."""
    u, s, vh = np.linalg.svd(x, full_matrices=False)
    count = int((s > RANK * max(s[0], of)).sum())
    count = count if top is None else min(count, top)
    return u[:, :count], s[:count], vh[:count]


def polar(x: Array, of: float = 0.0) -> Array:
    u, _, vh = thin(x, of=of) if x.size else (x, None, x[:0])
    return u @ vh if x.size else x


def stacked(triplets: Sequence[tuple[Array, Array, Array]]) -> tuple[Array, Array]:
    """The polar factors of all left vectors side by side and of all right vectors one below the other."""
    return polar(np.hstack([u for u, _, _ in triplets])), polar(np.vstack([vh for _, _, vh in triplets]))


def scaled(merged: Array, scale: float | str, deltas: Sequence[Array], weight: Any) -> Array:
    """Times the scale, or between unit response and least interference, as far as task vectors can be trusted."""
    if scale != "auto":
        return merged * scale
    tasks = [(float(w), delta) for w, delta in zip(weight, deltas, strict=True) if w != 0.0 and delta.any()]
    if not tasks or not merged.any():
        return merged
    answer = float(sum(np.sign(w) * (merged * delta).sum() / (delta**2).sum() for w, delta in tasks))
    unit = sum(abs(w) for w, _ in tasks) / answer if answer > 0.0 else 1.0
    half = float(np.mean([trust(delta) for _, delta in tasks])) / 2.0
    least = least_interference(merged, [(w, 1.0, delta) for w, delta in tasks])
    longest = sum(abs(w) * np.linalg.norm(delta) for w, delta in tasks) / np.linalg.norm(merged)
    return merged * min(unit**half * least ** (1.0 - half), longest)


def settled(merged: Array, scale: float | str, deltas: Sequence[Array], weight: Any) -> Array:
    """Times the scale, or that of least interference, the less so the more task vectors can be trusted."""
    if scale != "auto":
        return merged * scale
    tasks = [(1.0, float(w), delta) for w, delta in zip(weight, deltas, strict=True) if w != 0.0 and delta.any()]
    mean = float(np.mean([trust(delta) for _, _, delta in tasks])) if tasks else 1.0
    return merged * least_interference(merged, tasks) ** (1.0 - mean) if mean < 1.0 else merged


def least_interference(merged: Array, tasks: Sequence[tuple[float, float, Array]]) -> float:
    """The scale at which the tasks (aim, share, task vector) are disturbed least, by their inputs' covariances in full."""
    above = below = 0.0
    for aim, share, delta in tasks:
        known = trust(delta)
        inputs = known * delta.T @ delta / (delta**2).sum() + (1.0 - known) * np.eye(delta.shape[1]) / delta.shape[1]
        alone = np.trace(delta @ inputs @ delta.T)
        above += share * aim * np.trace(merged @ inputs @ delta.T) / alone
        below += share * np.trace(merged @ inputs @ merged.T) / alone
    return above / below if above > 0.0 and below > 0.0 else 1.0


def trust(delta: Array) -> float:
    """The rank over the smaller side, or 1 from a quarter on."""
    small = min(delta.shape)
    s = np.linalg.svd(delta, compute_uv=False)
    count = int((s > 1e-4 * s[0]).sum())
    return count / small if count < max(1, small // 4) else 1.0


def weighed(deltas: Sequence[Array], weight: Any) -> Array:
    return add(w * delta for w, delta in zip(weight, deltas, strict=True))


def task_vectors(merge: Callable[[list[Array]], Array], models: Sequence[Array], base: Array) -> Array:
    """Merge each matrix's task vectors and add them to the base."""
    return base + by_matrix(merge, differences(models, base))


def tsv(deltas: Sequence[Array], weight: Any) -> Array:
    kept = max(1, min(deltas[0].shape) // len(deltas))
    triplets = [thin(delta, kept) for delta in deltas]
    left, right = stacked(triplets)
    size = np.concatenate([w * s for w, (_, s, _) in zip(weight, triplets, strict=True)])
    return left @ np.diag(size) @ right


def tsv_merge(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    polarise: bool,
    precision: str,
    scale: Any,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        inputs = polarised(deltas) if polarise else deltas
        return scaled(tsv(inputs, weight), scale, deltas, weight)

    return task_vectors(merge, models, base)


def polarised(deltas: list[Array]) -> list[Array]:
    lengths = np.array([np.linalg.norm(delta) for delta in deltas])
    if not lengths.any():
        return deltas
    inputs = [delta * (length / lengths.mean()) ** 2 for delta, length in zip(deltas, lengths, strict=True)]
    columns = np.linalg.norm(np.concatenate(inputs), axis=0)
    return [delta * (columns / columns.mean()) ** 2 for delta in inputs]


def tsv_compress(models: Sequence[Array], base: Array, coins: KeyedUniform, *, task: int, scale: Any) -> Array:
    def merge(deltas: list[Array]) -> Array:
        u, s, vh = thin(deltas[task], max(1, min(deltas[task].shape) // len(deltas)))
        return scale[task] * u @ np.diag(s) @ vh

    return task_vectors(merge, models, base)


def iso_c(models: Sequence[Array], base: Array, coins: KeyedUniform, *, weight: Any, scale: Any) -> Array:
    def merge(deltas: list[Array]) -> Array:
        u, s, vh = thin(weighed(deltas, weight))
        return scaled((s.mean() if s.size else 0.0) * u @ vh, scale, deltas, weight)

    return task_vectors(merge, models, base)


def iso_cts(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, weight: Any, common: float, precision: str, scale: Any
) -> Array:
    k = len(models)

    def merge(deltas: list[Array]) -> Array:
        small = min(deltas[0].shape)
        own = min(round((small - int(small * common)) / k), small // k)
        triplets = [thin(weighed(deltas, weight), small - k * own)]
        shared = triplets[0][0]
        for w, delta in zip(weight, deltas, strict=True):
            rest = w * delta - shared @ shared.T @ (w * delta)
            triplets.append(thin(rest, own, of=float(np.linalg.norm(w * delta))))
        left, right = stacked(triplets)
        sizes = np.concatenate([s for _, s, _ in triplets])
        return scaled((sizes.mean() if sizes.size else 0.0) * left @ right, scale, deltas, weight)

    return task_vectors(merge, models, base)


def cleared(x: Array) -> Array:
    """Entries that are nothing beside the largest are zero."""
    return x * (np.abs(x) > RANK * np.abs(x).max(initial=0.0))


def largest(x: Array, share: float, among: int) -> Array:
    """The entries of the largest magnitudes, a share of so many, and what ties with the last; zero elsewhere."""
    least = threshold(np.abs(x), max(1, math.floor(share * among)) if share > 0.0 else 0)
    return x * (np.abs(x) >= (1.0 - 1e-9) * least)


def knots(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    host: str,
    weight: Any,
    density: Any,
    across: str,
    normalize: bool,
    scale: float,
) -> Array:
    k = len(models)

    def merge(given: list[Array]) -> Array:
        given = [x.T for x in given] if across == "output" else given
        deltas, draws = given[:k], given[k:]
        basis = thin(np.hstack(deltas))[0]
        inside = [basis.T @ delta for delta in deltas]
        inside = inside if host == "linear" else [cleared(z) for z in inside]
        if host == "ties":
            inside = [largest(z, p, z.size) if z.size else z for z, p in zip(inside, density, strict=True)]
        elif host == "dare_ties":
            inside = [
                np.where(draw[: len(z)] < p, z, 0.0) / (p or 1.0)
                for z, draw, p in zip(inside, draws, density, strict=True)
            ]
        zero = np.zeros_like(inside[0])
        merged = basis @ fuse(inside, zero, weight, elect=host != "linear", normalize=normalize, scale=scale)
        return merged.T if across == "output" else merged

    return base + by_matrix(merge, [*differences(models, base), *(coins(model) for model in range(k))])


def subspace_boosting(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, weight: Any, beta: float, scale: Any
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        u, s, vh = thin(weighed(deltas, weight))
        level = next((own for own, so_far in zip(s, np.cumsum(s), strict=True) if so_far >= beta * s.sum()), 0.0)
        return scaled(u @ np.diag(np.maximum(s, level)) @ vh, scale, deltas, weight)

    return task_vectors(merge, models, base)


def dc_merge(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    smooth: str,
    ratio: float,
    density: float,
    blocks: bool,
    precision: str,
    scale: Any,
) -> Array:
    def even(s: Array) -> Array:
        if smooth == "none" or not s.size:
            return s
        line = np.linspace(ratio, 1.0, s.size) if smooth == "linear" else np.ones(s.size)
        return line * s.sum() / line.sum()

    def merge(deltas: list[Array]) -> Array:
        triplets = [thin(delta, max(1, min(delta.shape) // len(deltas))) for delta in deltas]
        left, right = stacked(triplets)
        count = len(right)
        inside = [
            largest(cleared(left.T @ u @ np.diag(even(s)) @ vh @ right.T), density, count**2)
            if count
            else np.zeros((0, 0))
            for u, s, vh in triplets
        ]
        merged = fuse(inside, np.zeros((count, count)), weight, elect=True, normalize=True, scale=1.0)
        if blocks:
            task = np.repeat(np.arange(len(deltas)), [s.size for _, s, _ in triplets])
            merged = merged * (task[:, None] == task)
        return scaled(left @ merged @ right, scale, deltas, weight)

    return task_vectors(merge, models, base)


def procrustes(base: Array, target: Array) -> Array:
    """The orthogonal matrix that turns the base's rows onto the target's; the least turn of what neither spans."""
    u, _, vh = thin(base.T @ target)
    free, onto = np.linalg.svd(u)[0][:, u.shape[1] :], np.linalg.svd(vh)[2][len(vh) :]
    return u @ vh + free @ polar(free.T @ onto.T, of=1.0) @ onto


def orthomerge(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    rows: str,
    residual: str,
    scale: float | None,
) -> Array:
    k = len(models)

    def merge(given: list[Array]) -> Array:
        origin, deltas = given[0], given[1:]
        unit = np.eye(origin.shape[1])
        mean = add(deltas) / k
        aims = [d * ((d * mean).sum(1, keepdims=True) < 0.0) if rows == "conflicting" else d for d in deltas]
        turns = [procrustes(origin, origin + aim) if aim.any() else unit for aim in aims]
        logs = [np.linalg.pinv(turn + unit, rcond=1e-6) @ (turn - unit) for turn in turns]
        whole, share = weighed(logs, weight), float(np.abs(weight).sum())
        size = add(abs(w) * np.linalg.norm(log) for w, log in zip(weight, logs, strict=True)) / (share or 1.0)
        length = np.linalg.norm(whole)
        mid = whole * (size / length if length > 0.0 else 0.0)
        turn = np.linalg.inv(unit - mid) @ (unit + mid)
        turns = [np.linalg.inv(unit - log) @ (unit + log) for log in logs]
        left = [origin + delta - origin @ own for delta, own in zip(deltas, turns, strict=True)]
        rest = tsv(left, weight) if residual == "tsv" else weighed(left, weight)
        return origin @ turn - origin + rest * (1.0 / k if scale is None else scale)

    return base + by_matrix(merge, [base, *differences(models, base)])


def faced(origin: tuple[Array, Array, Array], own: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Signs of pairs as in the base, and no reflection."""
    (u, s, vh), (a, _, bh) = own, origin
    near = (u * a).sum(0) + (vh * bh).sum(1)
    signs = np.where(near < 0.0, -1.0, 1.0)
    if np.linalg.det(a.T @ (u * signs)) < 0.0:
        signs[np.argmin(np.abs(near))] *= -1.0
    return u * signs, s, signs[:, None] * vh


def coram(models: Sequence[Array], base: Array, coins: KeyedUniform, *, height: int, scale: Any) -> Array:
    def slice_of(origin: Array, others: list[Array]) -> Array:
        parts = np.linalg.svd(origin, full_matrices=False)
        found = [faced(parts, np.linalg.svd(other, full_matrices=False)) for other in others]
        logs = []
        for u, _, _ in found:
            values, vectors = np.linalg.eig(parts[0].T @ u)
            logs.append(np.real((vectors * np.log(values)) @ np.linalg.inv(vectors)))
        values, vectors = np.linalg.eigh(1j * add(logs) / len(logs))
        turn = np.real((vectors * np.exp(-1j * values)) @ vectors.conj().T)
        size, right = (add(part[place] for part in found) / len(found) for place in (1, 2))
        return parts[0] @ turn @ np.diag(size) @ polar(right)

    def merge(given: list[Array]) -> Array:
        origin, deltas = given[0], given[1:]
        rows = min(height, origin.shape[1])
        cut = range(0, len(origin), rows)
        merged = np.vstack([slice_of(origin[i : i + rows], [(origin + d)[i : i + rows] for d in deltas]) for i in cut])
        merged = merged - origin
        lengths = np.array([np.linalg.norm(delta) for delta in deltas])
        if scale != "auto" or not lengths.any():
            return merged * (1.0 if scale == "auto" else scale)
        ratio = lengths.max() / lengths[lengths > 0.0].min()
        gain = np.interp(np.log(ratio), np.log([3.5, 16.0]), [1.15, 0.5])
        return merged * gain * min(2 * len(deltas) ** 0.5, np.sqrt((lengths**2).mean()) / np.linalg.norm(merged))

    return base + by_matrix(merge, [base, *differences(models, base)])


REFERENCES: dict[str, Callable[..., Array]] = {
    "coram": coram,
    "dc_merge": dc_merge,
    "iso_c": iso_c,
    "iso_cts": iso_cts,
    "knots": knots,
    "orthomerge": orthomerge,
    "subspace_boosting": subspace_boosting,
    "tsv_compress": tsv_compress,
    "tsv_merge": tsv_merge,
}
