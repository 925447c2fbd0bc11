"""Adam, as published solvers run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from mergery.methods._interference import Interference

MEAN, SQUARE = 0.9, 0.999  # how much of the running means stays
ROUNDING = 1e-12  # of the largest pull on an entry: a smaller gradient at the start is none
GUARD = 1e-8  # added to the root of the mean square: Adam's own constant, part of what was published


def slope(problem: Interference, start: Tensor) -> Tensor:
    """Half the gradient at `start`, float32 but computed in float64: zero where rounding alone is left of it."""
    aim = problem.pull @ problem.basis
    half = ((start @ problem.basis.mT) * problem.values.unsqueeze(-2)) @ problem.basis - aim
    return half.where(half.abs() > ROUNDING * aim.abs().amax((-2, -1), keepdim=True), 0.0).float()


def walk(start: Tensor, gradient: Callable[[Tensor], Tensor], steps: int, rate: float | Tensor) -> Tensor:
    """Take Adam's steps from `start` down a gradient, which must be exactly zero where rounding alone is left of it."""
    point, mean, square = start, start * 0.0, start * 0.0
    for step in range(1, steps + 1):
        down = gradient(point)
        mean = MEAN * mean + (1.0 - MEAN) * down
        square = SQUARE * square + (1.0 - SQUARE) * down * down
        size = (square / (1.0 - SQUARE**step)).sqrt() + GUARD
        point = point - mean / size * (rate / (1.0 - MEAN**step))
    return point


def descend(problem: Interference, start: Tensor, steps: int, rate: float) -> Tensor:
    """Take Adam's steps on the interference from `start` (..., out, in), float64; the steps themselves are float32.

    Adam makes full steps of any gradient, were it one of rounding alone, and never settles. So the gradient at the start is
    taken in float64 and is zero where it should be; only what the steps change of it is float32. Where the basis spans most
    of the inputs, a step is one product with C; where it is narrow, two with the basis.
    """
    import torch

    first = slope(problem, start)
    basis, values = problem.basis.float(), problem.values.float()
    moved = torch.zeros_like(first)
    narrow = 2 * basis.shape[-2] < basis.shape[-1]
    whole = torch.empty(0) if narrow else ((problem.basis.mT * problem.values.unsqueeze(-2)) @ problem.basis).float()
    mean, square = torch.zeros_like(first), torch.zeros_like(first)
    for step in range(1, steps + 1):
        if narrow:
            gradient = ((moved @ basis.mT) * values.unsqueeze(-2)) @ basis
        else:
            gradient = moved @ whole
        gradient = gradient.add_(first).mul_(2.0)
        mean.lerp_(gradient, 1.0 - MEAN)
        square.mul_(SQUARE).addcmul_(gradient, gradient, value=1.0 - SQUARE)
        size = (square / (1.0 - SQUARE**step)).sqrt_().add_(GUARD)
        moved.addcdiv_(mean, size, value=-rate / (1.0 - MEAN**step))
    return start + moved
