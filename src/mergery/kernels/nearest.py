"""The nearest matrix with orthonormal columns, by eigenvectors in float32.

The polar factor of x is x G^(-1/2) with G = x^T x, and x is that factor times G^(1/2). Where singular vectors of several tasks
stand side by side, most eigenvalues of G are near one, and a few near zero: of these float32 knows nothing, and they are
what a root divides by. They are turned out of the others and found anew in float64, and what they add is computed apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mergery.kernels.leading import gap, rotated
from mergery.kernels.symmetric import LARGE, coarse, gram, spread

SMALL = 1e-2  # of the largest eigenvalue: below it, float64
MOST = 3  # of all vectors, in thirds, may be as small, for it to take less time
TURNED = 1e-2  # length of what is taken from the others, for its square to be nothing
FAINT = 1e-5  # of the largest singular value: what lies below asks for more care


@dataclass(frozen=True)
class Halves:
    """Eigenvectors of G, the large ones float32 (n, g) with their eigenvalues, the small ones float64 (n, b) with their roots.

    Roots (b,) that count as zero are zero.
    """

    far: Tensor
    values: Tensor
    near: Tensor
    roots: Tensor

    def factor(self, matrix: Tensor) -> Tensor:
        """x G^(-1/2), float32 (m, n)."""
        result = matrix.float() @ spread(self.far, self.values.rsqrt().float())
        apart = (matrix @ self.near) * torch.where(self.roots > 0.0, 1.0 / self.roots.where(self.roots > 0.0, 1.0), 0.0)
        return result.addmm_(apart.float(), self.near.mT.float())

    def root(self) -> Tensor:
        """G^(1/2), float32 (n, n)."""
        result = spread(self.far, self.values.sqrt().float())
        return result.addmm_((self.near * self.roots).float(), self.near.mT.float())


def halves(matrix: Tensor, least: float) -> Halves | None:
    """Those of a matrix (m, n), float64, m >= n, of which powers are right to a few millionths of their length.

    Singular values up to `least` of the largest count as zero. None where it would take no less time, or not be so exact.
    """
    n = matrix.shape[-1]
    if matrix.ndim > 2 or matrix.is_cuda or n < LARGE:
        return None
    squares = gram(matrix)
    made = coarse(squares)
    if made is None:
        return None
    values, vectors = made[0].double(), made[1]
    good = int((values > SMALL * values[0]).sum())
    if float(values[0]) <= 0.0 or MOST * (n - good) > n:
        return None
    far, rest = vectors[:, :good], torch.linalg.qr(vectors[:, good:].double()).Q
    turn = ((far.mT @ (squares @ rest).float()).double() / gap(values[good:], values[:good])).neg_().float()
    if not float(torch.linalg.vector_norm(turn)) <= TURNED:
        return None
    far, rest = far + rest.float() @ turn.mT, rest - (far @ turn).double()
    near, found, _ = rotated(squares, torch.linalg.qr(rest).Q)
    roots, first = found.clamp(min=0.0).sqrt(), float(values[0]) ** 0.5
    roots = roots * (roots > least * first)
    if bool(((roots > 0.0) & (roots < FAINT * first)).any()):
        return None
    return Halves(far, values[:good], near, roots)
