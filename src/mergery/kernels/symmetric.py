"""Symmetric matrices: products of which half is computed, and eigenvectors.

All functions take matrices (..., m, n) and work on each by itself, in their dtype. One thread makes the same bytes from
the same input; see `mergery.kernels.threads`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BLOCKS = 8  # of columns, in which a symmetric product is made: 9/16 of its entries are computed
NARROW = 256  # columns, below which a product is made at once
ROUNDS = 24  # of the estimate of the largest eigenvalue
PROCESSORS = Path("/proc/cpuinfo")


def gram(a: Tensor) -> Tensor:
    """a^T a, (..., n, n) of a (..., m, n)."""
    return mirrored(a.mT, a)


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
        length = torch.linalg.vector_norm(vector, dim=-2, keepdim=True)
        vector = vector / length.where(length > 0.0, 1.0)
    return (vector * (matrix @ vector)).sum(-2)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (..., n), largest first, and eigenvectors (..., n, n), float64, of a symmetric matrix.

    Of the two libraries that are there the faster takes it: torch's on GPUs and Intel's processors, where it has MKL and takes
    four fifths of numpy's time, elsewhere numpy's, which takes three fifths of torch's. What decides is the processor and not a
    measurement, so that a machine makes the same bytes each time.
    """
    if matrix.is_cuda or has_mkl():
        values, vectors = torch.linalg.eigh(matrix.double())
    else:
        values, vectors = (torch.from_numpy(each) for each in np.linalg.eigh(matrix.double().numpy()))
    return values.flip(-1), vectors.flip(-1)


def coarse(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """The same in float32 by torch; None where it finds none, as of a matrix (n, n) most of whose eigenvalues are zero."""
    try:
        values, vectors = torch.linalg.eigh(matrix.float())
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return None
    return values.flip(-1), vectors.flip(-1)


@cache
def has_mkl() -> bool:
    """Whether torch computes with MKL on the processor that it is made for."""
    return torch.backends.mkl.is_available() and PROCESSORS.exists() and "GenuineIntel" in PROCESSORS.read_text()
