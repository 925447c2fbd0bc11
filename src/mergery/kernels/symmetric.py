"""Symmetric matrices: products of which half is computed, and eigenvectors.

All functions take matrices (..., m, n) and work on each by itself, in their dtype. One thread makes the same bytes from
the same input; see `mergery.kernels.threads`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mergery.kernels.tridiagonal import eigenvectors

BLOCKS = 8  # of columns, in which a symmetric product is made: 9/16 of its entries are computed
NARROW = 256  # columns, below which a product is made at once
ROUNDS = 24  # of the estimate of the largest eigenvalue
LARGE = 512  # rows, from which a matrix is decomposed by itself, by way of a tridiagonal one


def gram(a: Tensor) -> Tensor:
    """a^T a, (..., n, n) of a (..., m, n)."""
    return mirrored(a.mT, a)


def length(tensor: Tensor) -> float:
    """The Frobenius norm."""
    return float(torch.linalg.vector_norm(tensor))


def spread(vectors: Tensor, values: Tensor) -> Tensor:
    """V diag(values) V^T, of V (..., n, r) and values (..., r)."""
    return mirrored(vectors * values.unsqueeze(-2), vectors.mT)


def mirrored(left: Tensor, right: Tensor) -> Tensor:
    """left right, (..., n, n), which is symmetric: its lower blocks are computed, the upper ones copied."""
    n = left.shape[-2]
    if n < NARROW:
        product = left @ right
        return 0.5 * (product + product.mT)
    result = left.new_empty(*left.shape[:-2], n, n)
    width = -(-n // BLOCKS)
    for start in range(0, n, width):
        stop = min(n, start + width)
        rows = left[..., start:stop, :] @ right[..., :stop]
        result[..., start:stop, :stop] = rows
        result[..., :start, start:stop] = rows[..., :start].mT
    return result


def largest_eigenvalue(matrix: Tensor) -> Tensor:
    """An estimate (..., 1) of the largest eigenvalue of matrices (..., n, n) without negative ones, from below."""
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[-1], 1, generator=generator, dtype=torch.float64).to(matrix)
    for _ in range(ROUNDS):
        vector = matrix @ vector
        own = torch.linalg.vector_norm(vector, dim=-2, keepdim=True)
        vector = vector / own.where(own > 0.0, 1.0)
    return (vector * (matrix @ vector)).sum(-2)


def eigh(matrix: Tensor, wanted: Callable[[Tensor], int] | None = None) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n), largest first, and eigenvectors (..., n, n), float64, of a symmetric matrix: all of them, or at
    least the first that are wanted once the eigenvalues are known.

    On the processor it is numpy's function for small matrices and stacks of them, and for large ones `tridiagonal`.
    """
    if matrix.is_cuda:
        values, vectors = torch.linalg.eigh(matrix.double())
    elif matrix.ndim == 2 and matrix.shape[-1] >= LARGE:
        return eigenvectors(matrix.double(), wanted or matrix.shape[-1])
    else:
        values, vectors = (torch.from_numpy(each) for each in np.linalg.eigh(matrix.double().numpy()))
    return values.flip(-1), vectors.flip(-1)


def coarse(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """The same of a matrix (n, n) in float32, in half the time; None where there is none, as may be where most are zero."""
    try:
        if not matrix.is_cuda:
            return eigenvectors(matrix.float(), matrix.shape[-1])
        values, vectors = torch.linalg.eigh(matrix.float())
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return None
    return values.flip(-1), vectors.flip(-1)
