"""The leading eigenvectors of a symmetric matrix: in float64, or among those in float32, made exact where it decides.

An eigendecomposition in float32 takes half the time of one in float64, or far less. It errs where vectors next to the cut mix
across it, as their eigenvalues are closer than float32 can tell: among those the problem is solved anew in float64. What the
others take from vectors of the other side is small, and follows from their residuals to first order.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergery.kernels.symmetric import LARGE, eigh
from mergery.kernels.tridiagonal import eigenvectors

NEAR = 96  # vectors on either side of the cut, at least, that are found anew,
SHARE = 16  # or this part of all
SMALL = 1e-2  # length of what is taken from the vectors of the other side, for its square to be nothing
FALL = 15.0  # times the first that is left out: larger eigenvalues, raised in float32, would drown the others


def leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """The first eigenvalues (count,), largest first, and eigenvectors (n, count), float64, of a matrix (n, n), float64.

    None where all are found in as little time.
    """
    n = matrix.shape[-1]
    if matrix.ndim > 2 or matrix.is_cuda or n < LARGE or not 0 < count < n:
        return None
    values, vectors = eigenvectors(matrix, count)
    return values[:count], vectors


def few(matrix: Tensor, count: int, most: float) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues (n,), largest first, and the first eigenvectors (n, count), float64, of a matrix (n, n) in float32.

    Some more are found in float32, and raised above all others by a polynomial of Chebyshev, small where those lie; among what
    they then span the problem is solved in float64. Residuals bound how far the vectors, together, are turned into the others:
    None where that may be more than `most`, or where it would take no less time.
    """
    n = matrix.shape[-1]
    width = count + max(NEAR, n // SHARE)
    if count < 1 or 2 * width > n:
        return None
    values, first = eigenvectors(matrix, width)
    bound, low = float(values[width - 1]), min(0.0, float(values[-1]))
    if not 0.0 < float(values[0]) <= FALL * bound:
        return None
    middle, half = 0.5 * (bound + low), 0.5 * (bound - low)

    def stretched(vectors: Tensor) -> Tensor:
        return (matrix @ vectors).sub_(vectors, alpha=middle).div_(half)

    once = stretched(first)
    twice = stretched(once).mul_(2.0).sub_(first)
    raised = stretched(twice).mul_(2.0).sub_(once)
    near, found, image = rotated(matrix.double(), torch.linalg.qr(raised.double()).Q)
    near, image = near[:, :count], image[:, :count]
    left = torch.linalg.vector_norm(image - near * found[:count], dim=-2)
    apart = (found[:count] - bound).clamp(min=torch.finfo(found.dtype).tiny)
    if not float((left / apart).square().sum()) ** 0.5 <= most:
        return None
    return torch.cat([found, values[width:].double()]), near


def settled(matrix: Tensor, values: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Eigenvalues (n,), float64, and eigenvectors (n, n), float32, of a matrix in float32, from a decomposition in float32.

    The first `count` now span what they should: those next to the cut are found anew in float64, and are turned against the far
    ones of the other side as their residuals say to first order. None where that is not small.
    """
    n = matrix.shape[-1]
    values = values.double()
    if not 0 < count < n:
        return values, vectors
    width = max(NEAR, 2 * n // SHARE)
    first, last = max(0, count - width), min(n, count + width)
    near, found, image = rotated(matrix.double(), torch.linalg.qr(vectors[:, first:last].double()).Q)
    felt, kept = (vectors.mT @ image.float()).double(), count - first
    up = (felt[last:, :kept] / gap(found[:kept], values[last:])).float()
    down = (felt[:first, kept:] / (values[:first].unsqueeze(-1) - found[kept:])).float()
    if not float(torch.linalg.vector_norm(up)) + float(torch.linalg.vector_norm(down)) <= SMALL:
        return None
    close = near.float()
    head = vectors[:, :first] + close[:, kept:] @ down.mT
    tail = vectors[:, last:] - close[:, :kept] @ up.mT
    middle = torch.cat([close[:, :kept] + vectors[:, last:] @ up, close[:, kept:] - vectors[:, :first] @ down], dim=-1)
    return torch.cat([values[:first], found, values[last:]]), torch.cat([head, middle, tail], dim=-1)


def rotated(matrix: Tensor, within: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix's eigenvectors (n, r) within what orthonormal vectors (n, r) span, their values, and its product with them."""
    image = matrix @ within
    values, turn = eigh(within.mT @ image)
    return within @ turn, values, image @ turn


def gap(values: Tensor, others: Tensor) -> Tensor:
    """By how much eigenvalues lie above others: (others, values)."""
    return values - others.unsqueeze(-1)
