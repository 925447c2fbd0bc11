"""Adam on a quadratic, as the published solvers of interference run it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from weft.methods._interference import Interference

MEAN, SQUARE = 0.9, 0.999  # how much of the running means stays
GUARD = 1e-8  # added to the root of the mean square: Adam's own constant, part of what was published


def descend(problem: Interference, start: Tensor, steps: int, rate: float) -> Tensor:
    """Take Adam's steps on the interference from `start` (..., out, in); float32 but for the problem itself.

    Where the basis spans most of the inputs, a step is one product with C; where it is narrow, two with the basis.
    """
    import torch

    basis = problem.basis.float()
    values, pull = problem.values.float(), problem.pull.float()
    point = start.float()
    narrow = 2 * basis.shape[-2] < basis.shape[-1]
    whole = torch.empty(0) if narrow else ((problem.basis.mT * problem.values.unsqueeze(-2)) @ problem.basis).float()
    aim = (problem.pull @ problem.basis).float()
    mean, square = torch.zeros_like(point), torch.zeros_like(point)
    for step in range(1, steps + 1):
        if narrow:
            gradient = ((point @ basis.mT) * values.unsqueeze(-2) - pull) @ basis
        else:
            gradient = point @ whole - aim
        gradient *= 2.0
        mean.lerp_(gradient, 1.0 - MEAN)
        square.mul_(SQUARE).addcmul_(gradient, gradient, value=1.0 - SQUARE)
        size = (square / (1.0 - SQUARE**step)).sqrt_().add_(GUARD)
        point = point - mean / size * (rate / (1.0 - MEAN**step))
    return point
