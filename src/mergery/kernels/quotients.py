"""Quotients by a symmetric matrix in float64, by its root, made in float32 at half the cost where that would not be seen."""

from __future__ import annotations

import torch
from torch import Tensor

from mergery.kernels.symmetric import LARGE, length

HALF_STEP = 2.0**-24  # rounding of a number in float32
UNSEEN = 8e-7  # of the result's length: rounding of what is summed up, of which up to ten times as much is left


def quotient(aim: Tensor, root: Tensor, rows: Tensor) -> Tensor:
    """y A, float64 (m, n), of rows A (r, n) and the solution y of y W = B, with B (m, r) and the Cholesky root of W (r, r).

    Where W is A A^T and more, y may be far longer than y A, whose sums cancel then; how far they do says what rounding does to
    them, and to y, as the root is about as long as A.
    """
    if aim.ndim == 2 and min(aim.shape) >= LARGE and aim.dtype == torch.float64:
        single = root.float()
        inner = torch.linalg.solve_triangular(single, aim.mT.float(), upper=False)
        solved = torch.linalg.solve_triangular(single.mT, inner, upper=True).mT
        del single, inner
        made = solved @ rows.float()
        terms = length(solved) * length(rows) / aim.shape[-1] ** 0.5
        if HALF_STEP * terms <= UNSEEN * length(made):
            return made.double()
    return torch.cholesky_solve(aim.mT, root).mT @ rows
