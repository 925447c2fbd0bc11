"""The least interference of task vectors as an average of them, each times its portion of the inputs.

    D* = sum_i d_i W_i,   W_i = c_i S_i C^+,   sum_i W_i = P, the inputs that tasks have

About the mean Z portions need only what tells tasks apart: D* = Z P + sum_i (d_i - Z) W_i. A portion is a part of the whole,
so that rounding in float32 is not enlarged by what it is multiplied with, as that of a residual is, which is divided after.
Only C^+ divides by what is small: it is made in float64, by a root of C, in which directions that do not count are lifted to
the mean eigenvalue first and taken out after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FINE = 5e-6  # of the portions: what rounding of C may change
STURDY = 0.3  # of the largest entry of a root's diagonal: below it, R in float32 is not exact enough to be divided
HALF_STEP = 2.0**-24  # rounding of a number in float32
MOST = 2  # times the directions that count: more inputs are better written anew in these directions
TALL = 1.5  # times the inputs: with fewer outputs portions take no less time, and err by a third more


def suited(matrix: Tensor, count: int, outputs: int) -> bool:
    """Whether portions are made of C (..., n, n) so many of whose directions count, for task vectors (..., outputs, n)."""
    import torch

    from mergery.kernels.rates import slow_in_float64

    single = matrix.dtype == torch.float32 and matrix.ndim == 2 and outputs >= TALL * matrix.shape[-1]
    return single and not slow_in_float64(matrix) and MOST * count >= matrix.shape[-1]


def inverted(matrix: Tensor, rest: Tensor, values: Tensor) -> Tensor | None:
    """C^+ (n, n), float32, of C (n, n) but for some of its eigenvectors (n, b) and their eigenvalues (b,).

    None where the rounding of C would be seen in what is divided.
    """
    import torch

    from mergery.kernels.symmetric import mirrored

    level = float(matrix.diagonal().mean())
    lifted = matrix + mirrored(rest * level, rest.mT) if rest.shape[-1] else matrix
    root, failed = torch.linalg.cholesky_ex(lifted.double())
    if bool(failed):
        return None
    inverse = torch.cholesky_inverse(root).float()
    if rest.shape[-1]:
        inverse -= mirrored(rest / (values + level).to(rest.dtype), rest.mT)
    lengths = float(torch.linalg.vector_norm(matrix)) * float(torch.linalg.vector_norm(inverse))
    return inverse if HALF_STEP * lengths <= FINE * len(matrix) else None


def averaged(
    start: Tensor, deltas: Sequence[Tensor], squares: Sequence[Tensor], inverse: Tensor, rest: Tensor, *, centred: bool
) -> Tensor:
    """D* (out, in) of task vectors (out, in), their c_i S_i (in, in), C^+ and what has no part in it (in, b).

    With `centred` the start is the task vectors' mean, and one of the terms follows from the others.
    """
    merged = start - (start @ rest) @ rest.mT if rest.shape[-1] else start.clone()
    last, apart = squares[-1], start.new_empty(start.shape)
    for delta, square in list(zip(deltas, squares, strict=True))[: -1 if centred else None]:
        apart.copy_(delta).sub_(start)
        merged.addmm_(apart, (square - last if centred else square) @ inverse)
    return merged


def sturdy(root: Tensor, least: float = STURDY) -> bool:
    """Whether what has this root may divide what was made in float32."""
    steps = root.diagonal(dim1=-2, dim2=-1)
    return bool((steps.amin(-1) >= least * steps.amax(-1)).all())
