"""Singular vectors in products of float32, where that is as good: of a sum, and of what it leaves of its terms.

With U (m, c) orthonormal and x (m, n) tall, those of (I - U U^T) x come from x^T x - (U^T x)^T (U^T x). What U holds is by far
the larger, so that its rounding would be seen in what is left: the first columns of U, which hold the most, are taken out of x
itself before. How far rounding turns the eigenvectors across the last that is wanted follows from how far eigenvalues lie
apart; where that is more than `MOST`, float32 does not hold the answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergery.kernels.leading import few
from mergery.kernels.symmetric import LARGE, gram, length
from mergery.kernels.tridiagonal import eigenvectors

FIRST = 16  # part of the columns that are taken out of the matrix itself
HALF_STEP = 2.0**-24  # rounding of a number in float32
MOST = 2e-6  # of the length of a basis of the smaller side: how far rounding may turn what is found
CLOSE = 1e-4  # of a bound below which directions are none: as near, rounding may have a say
STEEP = 16.0  # times the root mean square of singular values over one: more would be seen of the rounding of float32
Triplets = tuple[Tensor, Tensor, Tensor]


def ahead(levels: Tensor, right: Tensor) -> Tensor:
    """What U^T comes to of all terms of U diag(s) V^T, s (c,) and V^T (c, n), but for the first columns of U; float32."""
    first = right.shape[-1] // FIRST
    return (right[first:] * levels[first:].unsqueeze(-1)).float()


def remainder(
    shared: Tensor, matrix: Tensor, top: int, least: float, *, still: Tensor | None = None, last: bool = False
) -> Triplets | None:
    """u (m, r), s (r,) and vh (r, n), float64, the first r = `top` of (I - U U^T) x, with U (m, c) and x (m, n), m >= n.

    Of the terms of a sum `still` is what is `ahead`: each is taken out of it in place, so that of the last it is known. None
    where it would take no less time, where it would not be so exact, or where one of the values is not above `least`.
    """
    m, n = matrix.shape[-2:]
    if matrix.ndim > 2 or matrix.is_cuda or m < n or n < LARGE or not 0 < top < n:
        return None
    columns, whole = shared.float(), matrix.float()
    head, tail = columns[:, : n // FIRST], columns[:, n // FIRST :]
    rest = torch.addmm(whole, head, head.mT @ whole, alpha=-1)
    seen = still if last and still is not None else tail.mT @ rest
    if still is not None and not last:
        still -= seen
    squares, held = gram(rest), gram(seen)
    error = HALF_STEP * (length(squares) + length(held)) / n
    squares -= held
    most = MOST * n**0.5
    values, vectors = few(squares, top, most) or eigenvectors(squares.double(), top)
    error += 2.0 * HALF_STEP * float(values[0].clamp(min=0.0)) ** 0.5 * length(whole) / (m * n) ** 0.5
    smallest = float(values[top - 1].clamp(min=0.0)) ** 0.5
    if not smallest > (1.0 + CLOSE) * least or turned(values, top, error) > most:
        return None
    right = vectors.float()
    images = torch.addmm(rest @ right, tail, seen @ right, alpha=-1).double()
    s = torch.linalg.vector_norm(images, dim=-2)
    return images / s, s, vectors.mT


def shared_left(matrix: Tensor, right: Tensor, s: Tensor) -> Tensor | None:
    """Left singular vectors (m, c), float32, of a matrix (m, n) whose right ones (n, c) and values (c,) are known.

    None where it would take no less time, or where the last are so small beside the others that float32 would be seen.
    """
    n = matrix.shape[-1]
    if matrix.ndim > 2 or matrix.is_cuda or n < LARGE or not len(s):
        return None
    if not length(matrix) <= STEEP * n**0.5 * float(s[-1]):
        return None
    return (matrix.float() @ right.float()).div_(s.float())


def turned(values: Tensor, top: int, error: float) -> float:
    """How far the first eigenvectors turn into the others, together, by an error of so much in each entry, where eigenvalues
    (n,), largest first, lie as they do.
    """
    apart = values[:top].unsqueeze(-1) - values[top:]
    return float((error / apart.clamp(min=error)).square().sum()) ** 0.5
