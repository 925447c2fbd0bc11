"""Methods that project task vectors or turn matrices, written from their equations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mergery.testing.reference.arrays import Array, KeyedUniform, add, by_matrix
from mergery.testing.reference.spectral import largest, procrustes, scaled, settled, task_vectors, thin, weighed


def adam(start: Array, slope: Callable[[Array], Array], steps: int, rate: float) -> Array:
    point, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, steps + 1):
        gradient = slope(point)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        point = point - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return point


def opcm(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, weight: Any, alpha: float, scale: float
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        own = [w * delta for w, delta in zip(weight, deltas, strict=True)]
        sizes = [float(np.linalg.norm(own[0]))]
        merged, factor = own[0], 1.0  # the merge so far, and the scale by which it was divided
        for delta in own[1:]:
            rank = len(thin(merged)[1])
            u, s, vh = np.linalg.svd(merged)  # all directions, also those where nothing is
            inside = u.T @ delta @ vh.T
            leading = int((np.cumsum(s) <= alpha * np.cumsum(s)[-1]).sum()) if alpha < 1.0 else rank
            inside[:leading, :leading] = 0.0
            inside[range(rank), range(rank)] = 0.0
            sizes.append(float(np.linalg.norm(delta)))
            plain = factor * merged + u @ inside @ vh
            length = float(np.linalg.norm(plain))
            factor = length / np.mean(sizes) if length else 1.0
            merged = plain / factor if factor else plain
        return scale * merged

    return task_vectors(merge, models, base)


def svc(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, weight: Any, alpha: float | None, scale: Any
) -> Array:
    bound = 1.0 / len(models) if alpha is None else alpha

    def merge(deltas: list[Array]) -> Array:
        result = np.zeros_like(deltas[0])
        u, s, vh = thin(weighed(deltas, weight))
        for left, size, right in zip(u.T, s, vh, strict=True):
            counted = 0.0
            for delta in deltas:
                own = left @ delta
                there = np.linalg.norm(own) > 1e-6 * np.linalg.norm(delta)
                counted += max(bound, float(size * right @ own / (own @ own)) if there else 0.0)
            result += len(deltas) / counted * size * np.outer(left, right)
        return scaled(result, scale, deltas, weight)

    return task_vectors(merge, models, base)


def energetic(x: Array, energy: float) -> Array:
    """The fewest singular triplets whose values reach a share of the sum."""
    u, s, vh = thin(x)
    if not s.size or energy == 0.0:
        return np.zeros_like(x)
    count = len(s) if energy == 1.0 else int(np.searchsorted(np.cumsum(s) / s.sum(), energy)) + 1
    return u[:, :count] @ np.diag(s[:count]) @ vh[:count]


def dual_loss(point: Array, side: Array) -> float:
    """|S U^T (D - X)|^2 + |(D - X) V S|^2."""
    u, s, vh = np.linalg.svd(side, full_matrices=False)
    away = point - side
    return float(np.linalg.norm(np.diag(s) @ u.T @ away) ** 2 + np.linalg.norm(away @ vh.T @ np.diag(s)) ** 2)


def dual_slope(point: Array, side: Array) -> Array:
    return 2.0 * (side @ side.T @ (point - side) + (point - side) @ side.T @ side)


def dual_minimum(sides: Sequence[Array], shares: Sequence[float]) -> Array:
    """Where the weighted losses are least: each equation of P D + D Q = R in the eigenbases of P and Q."""
    p = add(share * side @ side.T for side, share in zip(sides, shares, strict=True))
    q = add(share * side.T @ side for side, share in zip(sides, shares, strict=True))
    r = add(2.0 * share * side @ side.T @ side for side, share in zip(sides, shares, strict=True))
    (above, left), (below, right) = np.linalg.eigh(p), np.linalg.eigh(q)
    bottom = above[:, None] + below[None, :]
    inner = left.T @ r @ right
    return left @ np.divide(inner, bottom, out=np.zeros_like(inner), where=bottom > 1e-12 * bottom.max()) @ right.T


def dop(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    solver: str,
    stability: float | None,
    energy: float,
    steps: int,
    rate: float,
    scale: float | str,
) -> Array:
    def descend(sides: Sequence[Array], start: Array, share: float) -> Array:
        part = share

        def slope(point: Array) -> Array:
            nonlocal part
            one, two = (dual_slope(point, side) for side in sides)
            first, second = (dual_loss(point, side) for side in sides)
            a, b = one / (first or 1.0), two / (second or 1.0)
            apart = float(((a - b) ** 2).sum())
            best = min(0.999, max(0.001, float(((b - a) * b).sum()) / apart)) if apart else part
            part = 0.999 * part + 0.001 * best
            return part * one + (1.0 - part) * two

        return adam(start, slope, steps, rate)

    def merge(deltas: list[Array]) -> Array:
        merged = deltas[0]
        for place, delta in enumerate(deltas[1:], start=1):
            share = place / (place + 1) if stability is None else stability
            sides = [energetic(merged, energy), energetic(delta, energy)]
            if solver == "closed":
                merged = dual_minimum(sides, [share, 1.0 - share])
            else:
                merged = descend(sides, (merged + delta) / 2, share)
        return settled(merged, 1.0 if scale == "auto" and solver == "adam" else scale, deltas, np.ones(len(deltas)))

    return task_vectors(merge, models, base)


def shared_directions(deltas: Sequence[Array], shared: float) -> Array:
    small = min(deltas[0].shape)
    count = math.floor(small * shared + 1e-6)
    stack = np.hstack([thin(delta, max(1, small // len(deltas)))[0] for delta in deltas])
    if not stack.size:
        return stack
    u, s, _ = thin(stack)
    beyond = s[count] if count < len(s) else 0.0
    return u[:, :count][:, s[:count] > (1.0 + 1e-6) * beyond]


def conflict(change: Array, deltas: Sequence[Array], factors: Sequence[float]) -> float:
    """The squared gaps between what each neuron answers to its own direction, and should."""
    whole = add(f * (delta + change) for f, delta in zip(factors, deltas, strict=True))
    return float(sum((((delta - whole) * delta).sum(1) ** 2).sum() for delta in deltas))


def conflict_slope(change: Array, deltas: Sequence[Array], factors: Sequence[float]) -> Array:
    whole = add(f * (delta + change) for f, delta in zip(factors, deltas, strict=True))
    gaps = [((delta - whole) * delta).sum(1, keepdims=True) for delta in deltas]
    return add(-2.0 * sum(factors) * gap * delta for gap, delta in zip(gaps, deltas, strict=True))


def doge(
    models: Sequence[Array],
    base: Array,
    coins: KeyedUniform,
    *,
    weight: Any,
    size: float | None,
    shared: float,
    steps: int,
    rate: float | None,
    density: float,
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        lengths = [float(np.linalg.norm(delta)) for delta in deltas]
        goal = sum(lengths) / len(deltas) ** 2 if size is None else size
        factors = [w * goal / length if length else 0.0 for w, length in zip(weight, lengths, strict=True)]
        unit = math.sqrt(sum(length**2 for length in lengths) / (len(deltas) * deltas[0].size)) or 1.0
        unit = 1.0 if rate is not None else unit
        basis = shared_directions(deltas, shared)
        small = [delta / unit for delta in deltas]

        def slope(point: Array) -> Array:
            plain = conflict_slope(point, small, factors)
            free = plain - basis @ basis.T @ plain
            return np.where(np.abs(free) > 1e-10 * np.abs(plain).max(), free, 0.0)

        moved = unit * adam(np.zeros_like(deltas[0]), slope, steps, 0.1 if rate is None else rate)
        return add(
            f * (delta + moved) * ((largest(delta, density, delta.size) != 0.0) | (density == 1.0))
            for f, delta in zip(factors, deltas, strict=True)
        )

    return task_vectors(merge, models, base)


def turn_by(turn: Array, share: float) -> Array:
    """The real part of the principal power of an orthogonal matrix, by its complex eigenvectors."""
    mixed = (turn + turn.T) / 2 + math.sqrt(2) * (turn - turn.T) / 2j  # Hermitian, of the same eigenvectors
    _, vectors = np.linalg.eigh(mixed)
    values = np.einsum("ji,jk,ki->i", vectors.conj(), turn, vectors)
    angles = np.where(values.real < -1.0 + 1e-12, np.pi, np.angle(values))
    return np.real((vectors * np.exp(1j * share * angles)) @ vectors.conj().T)


def rotate(
    models: Sequence[Array], base: Array | None, coins: KeyedUniform, *, strength: float, blend: float, centre: bool
) -> Array:
    def merge(pair: list[Array]) -> Array:
        a, b = (model.mean(0) if centre else np.zeros(model.shape[1]) for model in pair)
        one, two = pair[0] - a, pair[1] - b
        turn = procrustes(one, two)
        return ((1 - blend) * one + blend * two @ turn.T) @ turn_by(turn, strength) + (1 - strength) * a + strength * b

    return by_matrix(merge, models)


def truncate(
    models: Sequence[Array], base: Array, coins: KeyedUniform, *, share: float, rank: int | None, scale: float
) -> Array:
    def merge(deltas: list[Array]) -> Array:
        small = min(deltas[0].shape)
        u, s, vh = thin(deltas[0], math.floor(share * small + 0.5) if rank is None else rank)
        return scale * u @ np.diag(s) @ vh

    return task_vectors(merge, models, base)


REFERENCES: dict[str, Callable[..., Array]] = {
    "doge": doge,
    "dop": dop,
    "opcm": opcm,
    "rotate": rotate,
    "svc": svc,
    "truncate": truncate,
}
