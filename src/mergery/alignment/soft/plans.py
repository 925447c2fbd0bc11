"""How unlike two models' units are, and the plans of transport that this asks for (arXiv 1910.05653, 2310.05719).

The cost of a pair of units is their Euclidean distance, by weights or by activations, divided by the largest of all pairs.
Where a model does not see the sign of a unit, its negative is the same unit: the nearer of both counts.
"""

from __future__ import annotations

import math

import numpy as np

from mergery.alignment.matching.activations import Moments
from mergery.alignment.matching.assignment import AGREES, best_order
from mergery.errors import DataError, PlanError
from mergery.views.transforms import SoftMap, Units

ITERATIONS = 2000
WRONG = 0.01  # the share of mass that may be at the wrong places when Sinkhorn's iterations end
MOST = 8192  # pieces of units that are assigned at once


class Distances:
    """Of all units of the reference [n] from all of the model [m]: sums of squares and products, added up piece by piece."""

    def __init__(self, one: int, other: int, *, signs: bool) -> None:
        self.signs = signs
        self.one, self.other = np.zeros(one), np.zeros(other)
        self.signed, self.plain = np.zeros((one, other)), np.zeros((one, other))

    def add(self, one: np.ndarray, other: np.ndarray, *, signed: bool) -> None:
        """Add features of units: rows of [n, rest] and [m, rest]; `signed` where they change sign with the unit."""
        one, other = one.astype(np.float64), other.astype(np.float64)
        self.add_sums((one**2).sum(1), (other**2).sum(1), one @ other.T, signed=signed)

    def add_sums(self, one: np.ndarray, other: np.ndarray, both: np.ndarray, *, signed: bool) -> None:
        """Add sums over features: of squares [n] and [m], and of products [n, m]."""
        self.one, self.other = self.one + one, self.other + other
        (self.signed if signed else self.plain).__iadd__(both)

    def add_activations(self, moments: Moments) -> None:
        """Add what units say, each with mean 0 and variance 1: how much a unit varies is not what it says."""
        one, other = ((each > 0).astype(np.float64) for each in moments.deviations)
        self.add_sums(one, other, moments.correlation, signed=True)

    @property
    def cost(self) -> np.ndarray:
        """float64 [n, m], from 0 to 1."""
        alike = self.plain + (np.abs(self.signed) if self.signs else self.signed)
        found = np.sqrt(np.maximum(self.one[:, None] + self.other[None, :] - 2 * alike, 0.0))
        return found / max(float(found.max(initial=0.0)), 1e-30)

    @property
    def agree(self) -> bool:
        """Whether each unit is about its namesake, as in a fine-tune."""
        if len(self.one) != len(self.other):
            return False
        inner = np.diagonal(self.plain + self.signed)
        return bool(np.all(inner >= AGREES * np.sqrt(self.one * self.other)))

    def plan(self, epsilon: float) -> np.ndarray:
        """float64 [n, m] with rows of sum 1 / n and columns of 1 / m, below 0 where a unit is the other's negative."""
        if self.agree:
            return np.eye(len(self.one)) / len(self.one)
        found = transport_plan(self.cost, epsilon)
        return found * np.where(self.signed < 0, -1.0, 1.0) if self.signs else found


def transport_plan(cost: np.ndarray, epsilon: float) -> np.ndarray:
    """The plan [n, m] that moves uniform mass at the least cost, smoothed by `epsilon` times its entropy; 0: exact.

    Raises DataError where Sinkhorn's iterations do not end, and PlanError where units would be cut into too many pieces.
    """
    if epsilon == 0.0:
        return _exact(cost)
    import torch

    from mergery.alignment.transport.sinkhorn import solve

    values = torch.from_numpy(np.ascontiguousarray(cost))
    solution = solve(values, epsilon, iterations=ITERATIONS)
    if not solution.error <= WRONG:
        why = f"after {solution.iterations} iterations {solution.error:.1%} of the mass is at the wrong places"
        raise DataError(
            "a plan of transport was not found", why=why, hint="a larger epsilon, or epsilon: 0 for an exact one"
        )
    return solution.plan(values).numpy()


def _exact(cost: np.ndarray) -> np.ndarray:
    """Units of both are cut into as many equal pieces, and these assigned one to one."""
    one, other = cost.shape
    pieces = math.lcm(one, other)
    if one != other and pieces > MOST:
        why = f"{one} and {other} units come out even at {pieces} pieces, more than {MOST}"
        raise PlanError("an exact plan is too large", why=why, hint="leave out epsilon: 0")
    rows = np.repeat(np.arange(one), pieces // one)
    columns = np.repeat(np.arange(other), pieces // other)
    found = np.zeros(cost.shape)
    np.add.at(found, (rows, columns[best_order(-cost[np.ix_(rows, columns)])]), 1.0 / pieces)
    return found


def map_of(plan: np.ndarray) -> SoftMap | Units:
    """A plan as what is done to a space: an order of its units, with signs where the plan has any, if it is one; or a map."""
    made = plan * max(plan.shape)
    one = np.abs(made)
    exact = made.shape[0] == made.shape[1] and bool(np.all((one == 0.0) | (np.abs(one - 1.0) < 1e-12)))
    if not exact:
        return SoftMap(made.astype(np.float32))
    order = one.argmax(1)
    signs = np.sign(made[np.arange(len(order)), order]).astype(np.float32)
    return Units(order.astype(np.int64), signs if np.any(signs < 0) else None)
