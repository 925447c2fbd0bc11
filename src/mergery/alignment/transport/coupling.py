"""Which layers of the source go into which of the target, from what it costs to match their neurons.

A module has a cost of its inputs (`before`) and one of its outputs (`after`), each (layers of the target, of the source).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergery.alignment.transport.sinkhorn import Solution, solve

if TYPE_CHECKING:
    from torch import Tensor

COUPLINGS = {
    "balanced": "by optimal transport in which each layer of the source gives as much as any other: the paper's",
    "unbalanced": "by optimal transport that may leave layers of the source out",
    "argmin": "each layer of the target takes the one that is most like it",
    "monotone": "each takes one, never an earlier one than the layer below it",
}
ITERATIONS, TOLERANCE = 1000, 1e-9  # of the plan of layers, as published


@dataclass(frozen=True)
class Coupling:
    """Masses (layers of the target, of the source), float64 with a sum of about 1; the error of the plans behind them."""

    masses: Tensor
    error: float = 0.0
    converged: bool = True

    @property
    def shares(self) -> Tensor:
        """The masses, each row with a sum of 1."""
        return self.masses / self.masses.sum(1, keepdim=True)

    @property
    def spread(self) -> float:
        """How many layers of the source go into one of the target, as the exponential of the rows' mean entropy."""
        import torch

        shares = self.shares
        return float((-(torch.special.xlogy(shares, shares)).sum(1).mean()).exp())


def normed(cost: Tensor) -> Tensor:
    """A cost without its least value, over its median: the same for costs of any size."""
    above = cost.double() - cost.double().min()
    middle = above.median()
    return above / middle if float(middle) > 0 else above


def couple(before: Tensor, after: Tensor, how: str, *, eta: float, relaxed: float, raw: bool = False) -> Coupling:
    """Couple the layers of a module as `COUPLINGS` says.

    eta:     of the entropy in optimal transport.
    relaxed: of an unbalanced plan: how strongly all of the source is wanted.
    raw:     costs as they are, as the paper writes; they are normed otherwise, as in its code.
    """
    costs = (before.double(), after.double()) if raw else (normed(before), normed(after))
    if how in ("balanced", "unbalanced"):
        relax = relaxed if how == "unbalanced" else None
        plans = [_layer_plan(cost, eta, relax) for cost in costs]
        first, second = (solution.plan(cost) for cost, solution in zip(costs, plans, strict=True))
        error = max(solution.error for solution in plans)
        return Coupling((first * second).sqrt(), error, all(solution.converged for solution in plans))
    total = costs[0] + costs[1]
    chosen = total.argmin(1).tolist() if how == "argmin" else monotone(total)
    masses = total.new_zeros(total.shape)
    for layer, other in enumerate(chosen):
        masses[layer, other] = 1.0 / len(chosen)
    return Coupling(masses)


def _layer_plan(cost: Tensor, eta: float, relaxed: float | None) -> Solution:
    return solve(cost, eta, iterations=ITERATIONS, tolerance=TOLERANCE, relaxed=relaxed)


def monotone(cost: Tensor) -> list[int]:
    """For each row the column it takes, so that columns never go back and the costs' sum is least; some may be left out."""
    rows = cost.tolist()
    total, ways = list(rows[0]), []
    for row in rows[1:]:
        best, way = [], []
        at = 0
        for column in range(len(row)):
            at = column if total[column] < total[at] else at
            best.append(total[at] + row[column])
            way.append(at)
        total = best
        ways.append(way)
    chosen = [min(range(len(total)), key=total.__getitem__)]
    for way in reversed(ways):
        chosen.append(way[chosen[-1]])
    return chosen[::-1]
