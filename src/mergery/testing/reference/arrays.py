"""What the references share: arrays, spans and task vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray
KeyedUniform = Callable[[int], Array]


def add(terms: Iterable[Array]) -> Array:
    return np.add.reduce(list(terms))


def matrix(x: Array) -> Array:
    """A tensor as a matrix of output neurons; a vector is one row."""
    return x.reshape(1, -1) if x.ndim < 2 else x.reshape(x.shape[0], math.prod(x.shape[1:]))


def by_scope(merge: Callable[[list[Array]], Array], vectors: Sequence[Array], scope: str) -> Array:
    """Merge whole tensors, their rows one by one, or their columns one by one; a vector is one row either way."""
    if scope in ("tensor", "model") or vectors[0].ndim < 2:
        return merge([x.reshape(-1) for x in vectors]).reshape(vectors[0].shape)
    matrices = [matrix(x) if scope == "row" else matrix(x).T for x in vectors]
    merged = np.zeros_like(matrices[0])
    for index in range(len(merged)):
        merged[index] = merge([x[index] for x in matrices])
    return (merged if scope == "row" else merged.T).reshape(vectors[0].shape)


def by_matrix(merge: Callable[[list[Array]], Array], tensors: Sequence[Array]) -> Array:
    """Merge matrices [out, in]; those of a stack one by one, kernels as (out, in x ...), and nothing of what is empty."""
    first = tensors[0]
    if not first.size:
        return np.zeros_like(first)
    if first.ndim == 3:
        return np.stack([merge(list(matrices)) for matrices in zip(*tensors, strict=True)])
    return merge([matrix(x) for x in tensors]).reshape(first.shape)


def differences(models: Sequence[Array], base: Array | None) -> list[Array]:
    return [x - base for x in models] if base is not None else list(models)


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
