"""The nearest matrix with orthonormal columns, by eigenvectors in float32.

The polar factor of x is x G^(-1/2) with G = x^T x. Where singular vectors of several tasks stand side by side, most eigenvalues
of G are near one, and a few of them near zero: of these float32 knows nothing, and they are what a root divides by. They are
turned out of the others and found anew in float64, and what they add to the factor is computed apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mergery.kernels.leading import LARGE, gap, rotated
from mergery.kernels.symmetric import gram, has_mkl, spread

SMALL = 1e-2  # of the largest eigenvalue: below it, float64
MOST = 3  # of all vectors, in thirds, may be as small, for it to take less time
TURNED = 1e-2  # length of what is taken from the others, for its square to be nothing
FAINT = 1e-5  # of the largest singular value: what lies below asks for more care


def nearest(matrix: Tensor, least: float) -> Tensor | None:
    """The polar factor (m, n), float32, of a matrix (m, n), float64, m >= n, to a few millionths of its length.

    It is zero on singular values up to `least` of the largest. None where that would take no less time, or not be so exact.
    """
    n = matrix.shape[-1]
    if matrix.ndim > 2 or matrix.is_cuda or not has_mkl() or n < LARGE:
        return None
    squares = gram(matrix)
    values, vectors = (each.flip(-1) for each in torch.linalg.eigh(squares.float()))
    values = values.double()
    good = int((values > SMALL * values[0]).sum())
    if float(values[0]) <= 0.0 or MOST * (n - good) > n:
        return None
    far, rest = vectors[:, :good], torch.linalg.qr(vectors[:, good:].double()).Q
    turn = ((far.mT @ (squares @ rest).float()).double() / gap(values[good:], values[:good])).neg_().float()
    if not float(torch.linalg.vector_norm(turn)) <= TURNED:
        return None
    far, rest = far + rest.float() @ turn.mT, rest - (far @ turn).double()
    near, found, _ = rotated(squares, torch.linalg.qr(rest).Q)
    size, first = found.clamp(min=0.0).sqrt(), float(values[0]) ** 0.5
    kept = size > least * first
    if bool((kept & (size < FAINT * first)).any()):
        return None
    factor = matrix.float() @ spread(far, values[:good].rsqrt().float())
    apart = (matrix @ near) * (kept / size.where(kept, 1.0))
    return factor.addmm_(apart.float(), near.mT.float())
