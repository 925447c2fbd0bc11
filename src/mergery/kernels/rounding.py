"""Matrices rounded to codes of few bits: each number to the nearest, or so that what is lost is made up for by others (GPTQ).

A code is a small integer, or a float of eight bits (e4m3), and stands for itself times the scale of its group: so many numbers
along a row, or the whole row. Arithmetic is float32; of GPTQ's inverse, float64. One thread makes the same codes from the same
input; see `mergery.kernels.threads`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_FLOAT = 448.0  # of e4m3
DAMPING = 0.01  # of the mean of a Gram matrix's diagonal, added to it
COLUMNS = 128  # of GPTQ, whose changes to all later columns are made together


@dataclass(frozen=True)
class Grid:
    """The codes that there are, and how many numbers of a row share a scale; None: the row."""

    bits: int
    floating: bool = False
    group: int | None = None

    @property
    def least(self) -> float:
        return -LARGEST_FLOAT if self.floating else -float(1 << (self.bits - 1))

    @property
    def largest(self) -> float:
        return LARGEST_FLOAT if self.floating else float((1 << (self.bits - 1)) - 1)

    def groups(self, width: int) -> int:
        """Scales of a row of so many numbers, which whole groups fill."""
        return 1 if self.group is None else width // self.group

    def round(self, values: Tensor) -> Tensor:
        """The nearest codes of numbers that are divided by their scales, as float32; halves go to the even one."""
        inside = values.clamp(self.least, self.largest)
        return inside.to(torch.float8_e4m3fn).float() if self.floating else inside.round()


def scales_of(values: Tensor, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Scales (rows, groups) by which the largest number of each group, of float32 (rows, width), gets the outermost code.

    They are numbers of `dtype`, in which they are stored, none below what it is rounded from, and above zero, also where a
    group is zeros. Of integers the range is that between -b - 1/2 and b + 1/2, b the largest code, so that no number is
    further from its code than half a step.
    """
    most = values.reshape(len(values), grid.groups(values.shape[1]), -1).abs().amax(-1)
    exact = most / ((grid.largest - grid.least) / 2)
    scales = exact.to(dtype)
    if dtype != torch.float32:
        below = scales.float() < exact
        scales = (scales.view(torch.int16) + below.to(torch.int16)).view(dtype)  # the next one
    return torch.where(scales == 0, torch.full_like(scales, torch.finfo(dtype).eps), scales).float()


def nearest(values: Tensor, scales: Tensor, grid: Grid) -> Tensor:
    """The code nearest to each number, float32 (rows, width)."""
    return grid.round(values / spread(scales, values.shape[1]))


def spread(scales: Tensor, width: int) -> Tensor:
    """The scale of each number, (rows, width)."""
    return scales.repeat_interleave(width // scales.shape[1], dim=1)


def gptq(values: Tensor, scales: Tensor, grid: Grid, gram: Tensor) -> Tensor:
    """Codes whose product with the inputs is near to the matrix's own (Frantar et al. 2023, arXiv 2210.17323).

    values: float32 (rows, width), which is used up. gram: X^T X of what it is multiplied with, (width, width). Columns are
    rounded one after the other, those with the largest inputs first; what a column loses is made up for by the columns that
    are still to come, in the way of least squares: error / u_ii * u_i, u the upper Cholesky factor of the inverse of the
    damped Gram matrix. Scales stay those of the matrix before. A matrix that no input has reached is rounded to the nearest.
    """
    width = values.shape[1]
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    upper = _factor(gram, order)
    scale_of = scales[:, (torch.arange(width) // (width // scales.shape[1]))[order]]
    work = values[:, order].T.contiguous()  # a column is a row: it is read and changed again and again
    steps = scale_of.T.contiguous()
    codes = torch.empty_like(work)
    for first in range(0, width, COLUMNS):
        last = min(width, first + COLUMNS)
        lost = torch.empty(last - first, len(values))
        for column in range(first, last):
            codes[column] = grid.round(work[column] / steps[column])
            error = (work[column] - codes[column] * steps[column]) / upper[column, column]
            lost[column - first] = error
            work[column + 1 : last].addr_(upper[column, column + 1 : last], error, alpha=-1)
        work[last:].addmm_(upper[first:last, last:].T, lost, alpha=-1)
    result = torch.empty_like(values)
    result[:, order] = codes.T
    return result


def _factor(gram: Tensor, order: Tensor) -> Tensor:
    """The upper Cholesky factor U of the inverse of a damped Gram matrix H, its rows and columns in this order, float32.

    H = R R^T with R upper triangular, which is a Cholesky factor from the other end, and U is the inverse of R.
    """
    matrix = gram[order][:, order].double()
    mean = float(matrix.diagonal().mean())
    matrix.diagonal().add_(DAMPING * mean if mean > 0.0 else 1.0)
    matrix = matrix.flip(0, 1)  # each is let go for the next: they may be gigabytes
    matrix = torch.linalg.cholesky(matrix)
    matrix = matrix.flip(0, 1)
    return torch.linalg.solve_triangular(matrix, torch.eye(len(matrix), dtype=torch.float64), upper=True).float()
