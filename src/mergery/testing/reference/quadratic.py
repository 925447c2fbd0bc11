"""The family of quadratic interference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, by_matrix, differences
from mergery.testing.reference.spectral import settled

NOTHING = 1e-12  # of the largest eigenvalue: smaller ones are zero

Terms = list[tuple[float, Array, Array]]
"""Weight, target and inputs (rows) of each task."""


def summed(terms: Terms) -> tuple[Array, Array]:
    """sum w T S and sum w S."""
    return add(w * target @ rows.T @ rows for w, target, rows in terms), add(w * rows.T @ rows for w, _, rows in terms)


def minimum(terms: Terms, cut: float | None = 0.0) -> Array:
    """Without a cut, that of a pseudo-inverse in float32."""
    pull, covariance = summed(terms)
    cut = len(covariance) * 2.0**-23 if cut is None else cut
    return pull @ np.linalg.pinv(covariance, rcond=max(cut, NOTHING), hermitian=True)


def loss(point: Array, terms: Terms) -> float:
    return float(sum(w * (((point - target) @ rows.T) ** 2).sum() for w, target, rows in terms))


def gradient(point: Array, terms: Terms) -> Array:
    return add(2.0 * w * (point - target) @ (rows.T @ rows) for w, target, rows in terms)


def adam(start: Array, terms: Terms, steps: int, rate: float) -> Array:
    point, first, second = start, np.zeros_like(start), np.zeros_like(start)
    for step in range(1, steps + 1):
        slope = gradient(point, terms)
        first = 0.9 * first + 0.1 * slope
        second = 0.999 * second + 0.001 * slope**2
        point = point - rate * (first / (1.0 - 0.9**step)) / (np.sqrt(second / (1.0 - 0.999**step)) + 1e-8)
    return point


def beginning(deltas: Sequence[Array], start: str) -> Array:
    return add(deltas) / (1.0 if start == "sum" else len(deltas))


def own_rows(deltas: Sequence[Array], weight: Any) -> Terms:
    """Each task's own rows as its inputs, of norm one in all; a task vector of zeros has none."""
    return [(w, delta, delta / (float(np.linalg.norm(delta)) or 1.0)) for w, delta in zip(weight, deltas, strict=True)]


def solved(
    deltas: Sequence[Array], terms: Terms, solver: str, start: str, steps: int, rate: float, cut: float | None
) -> Array:
    return minimum(terms, cut) if solver == "closed" else adam(beginning(deltas, start), terms, steps, rate)


def kept(
    merge: Callable[[list[Array]], Array], scale: float | str, weight: Any, solver: str = "closed"
) -> Callable[[list[Array]], Array]:
    """A merge of task vectors times its scale; `auto` is 1 where it descends."""
    found = 1.0 if scale == "auto" and solver == "adam" else scale
    return lambda deltas: settled(merge(deltas), found, deltas, weight)


def wudi(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    solver: str,
    start: str,
    steps: int,
    rate: float,
    cut: float | None,
    precision: str,
    scale: float | str,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        return solved(deltas, own_rows(deltas, weight), solver, start, steps, rate, cut)

    return base + by_matrix(kept(merge, scale, weight, solver), differences(models, base))


def leading(matrix: Array, count: int) -> tuple[Array, Array, Array]:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :count], s[:count], vh[:count]


def optmerge(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    solver: str,
    start: str,
    steps: int,
    rate: float,
    cut: float | None,
    scale: float | str,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        kept = max(1, min(deltas[0].shape) // len(deltas))
        mean = beginning(deltas, "mean")
        terms: Terms = []
        for w, delta in zip(weight, deltas, strict=True):
            u, s, vh = leading(delta - mean, kept)
            _, size, rows = leading(delta, kept)
            terms.append((w, mean + u * s @ vh, size[:, None] * rows / (float(np.linalg.norm(delta)) or 1.0)))
        return solved(deltas, terms, solver, start, steps, rate, cut)

    return base + by_matrix(kept(merge, scale, weight, solver), differences(models, base))


def spectrum(terms: Terms) -> tuple[Array, Array]:
    """Eigenvalues of the summed covariance, largest first, and eigenvectors (columns)."""
    values, vectors = np.linalg.eigh(summed(terms)[1])
    values, vectors = values[::-1], vectors[:, ::-1]
    return np.where(values > NOTHING * max(values[0], 0.0), values, 0.0), vectors


def flow(start: Array, terms: Terms, filtered: Callable[[Array], Array]) -> Array:
    values, vectors = spectrum(terms)
    share = filtered(values) * (values > 0.0)
    pull = summed(terms)[0]
    kept = start - start @ vectors @ np.diag(share) @ vectors.T
    return kept + pull @ vectors @ np.diag(share / np.where(values > 0.0, values, 1.0)) @ vectors.T


def swudi(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    time: float,
    rank: float,
    start: str,
    precision: str,
    scale: float | str,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        count = math.ceil(rank * deltas[0].shape[1] - 1e-3)

        def filtered(values: Array) -> Array:
            return (1.0 - np.exp(-time * values)) * (np.arange(len(values)) < count)

        return flow(beginning(deltas, start), own_rows(deltas, weight), filtered)

    return base + by_matrix(kept(merge, scale, weight), differences(models, base))


def participation(values: Array) -> int:
    if not values.any():
        return 1
    return max(1, math.ceil(float(np.sqrt(values).sum() ** 2 / values.sum()) - 1e-3))


def told_from_noise(values: Array, rows: int) -> int:
    """Gavish and Donoho 2014, the optimal threshold where the noise is unknown, by their cubic."""
    into = len(values)
    ratio = min(rows, into) / max(rows, into)
    roots = np.sqrt(values[: min(rows, into)])
    bound = (0.56 * ratio**3 - 0.95 * ratio**2 + 1.82 * ratio + 1.43) * np.median(roots)
    return int((roots > bound).sum())


def told_as_published(values: Array, rows: int, out: int) -> int:
    """The same where the noise is known, over its median as the authors of SWUDI have it, of the shape of one task vector."""
    into = len(values)
    b = min(out, into) / max(out, into)
    known = np.sqrt(2 * (b + 1) + 8 * b / ((b + 1) + np.sqrt(b * b + 14 * b + 1)))
    over = np.sqrt(2 + np.sqrt(3)) if b >= 0.9999 else np.sqrt((1 - b) ** 2 + b)
    roots = np.sort(np.sqrt(values[: min(rows, into)]))
    return max(1, int((roots > known / over * roots[(len(roots) - 1) // 2]).sum()))


def swudi_a(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    rule: str,
    start: str,
    precision: str,
    scale: float | str,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        rows = sum(len(delta) for delta in deltas)

        def filtered(values: Array) -> Array:
            told = {
                "noise": told_from_noise(values, rows),
                "published": told_as_published(values, rows, len(deltas[0])),
            }
            count = participation(values) if rule == "participation" else told[rule]
            return np.where(np.arange(len(values)) < count, 1.0, 0.0)

        return flow(beginning(deltas, start), own_rows(deltas, weight), filtered)

    return base + by_matrix(kept(merge, scale, weight), differences(models, base))


def actmat(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    cut: float | None,
    precision: str,
    scale: float | str,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        return minimum([(w, delta, delta) for w, delta in zip(weight, deltas, strict=True)], cut)

    return base + by_matrix(kept(merge, scale, weight), differences(models, base))


def tasks_differ(deltas: Sequence[Array]) -> bool:
    logs = np.log([float((delta**2).sum()) for delta in deltas if delta.any()])
    return len(logs) > 1 and bool(np.var(logs, ddof=1) > 0.3 * np.mean(logs) ** 2)


def ace(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    mode: str,
    ridge: float,
    ridge_of: str,
    leading: float,
    precision: str,
    scale: float | str,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        out, into = deltas[0].shape
        k = len(deltas)
        share = weight / np.mean(weight)
        differ = {"auto": tasks_differ(deltas), "unequal": True, "equal": False}[mode]
        centred = [delta - delta.mean(0) for delta in deltas]
        traces = [float((delta**2).sum()) for delta in centred]
        plain = [delta.T @ delta for delta in centred]
        unit = ridge * (np.mean(traces) / into if ridge_of == "mean" else 1.0)
        ridges = [unit * np.eye(into)] * k
        if differ:
            plain = [s / (trace or 1.0) for s, trace in zip(plain, traces, strict=True)]
            ridges = [unit / trace * np.eye(into) if trace else np.zeros((into, into)) for trace in traces]
        loaded = add(w * (s + e) for w, s, e in zip(share, plain, ridges, strict=True))
        row = add(w * s for w, s in zip(share, plain, strict=True)).mean(0)
        if differ:
            row = row / (np.mean([float((delta**2).sum()) for delta in deltas]) or 1.0)
        aim = add(w * d @ (s + e) for w, d, s, e in zip(share, centred, plain, ridges, strict=True))
        if not aim.any():
            return aim
        merged = aim @ np.linalg.inv(loaded + row)
        if differ:
            rest = add(w * d @ (s - loaded / k) for w, d, s in zip(share, deltas, plain, strict=True))
            u, s, vh = np.linalg.svd(merged + rest, full_matrices=False)
            count = int(np.sum(s[: int(leading * min(out, into))] > 1e-6 * s[0]))
            merged = merged + (s[:count].mean() * u[:, :count] @ vh[:count] if count else 0.0)
        return merged

    return base + by_matrix(kept(merge, scale, weight), differences(models, base))


REFERENCES: dict[str, Callable[..., Array]] = {
    "ace": ace,
    "actmat": actmat,
    "optmerge": optmerge,
    "swudi": swudi,
    "swudi_a": swudi_a,
    "wudi": wudi,
}
