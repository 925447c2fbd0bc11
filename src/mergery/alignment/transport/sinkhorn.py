"""Entropic optimal transport: the plan Q that makes <C, Q> - epsilon H(Q) least, with given marginals (Sinkhorn; Cuturi 2013).

A plan is kept as two vectors of potentials, from which it is made again with its cost: Q = exp(f + g - C / epsilon). All is
float64. Every solution ends with the rows scaled exactly, and says how far its columns are from their marginals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mergery.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Domain = Literal["auto", "exp", "log"]
SAFE = 600.0  # largest cost over epsilon whose exponential is a float64 with digits to spare
EVERY = 10  # iterations between two looks at the error


@dataclass(frozen=True)
class Solution:
    """A plan as its potentials, and how good it is.

    rows, columns: float64 (n,) and (m,), logarithms of the plan's scalings.
    error:         sum of what the columns' masses differ from their marginal; rows are exact. Of relaxed columns: how far the
                   last iteration has still moved the rows.
    """

    rows: Tensor
    columns: Tensor
    epsilon: float
    error: float
    iterations: int
    converged: bool

    def plan(self, cost: Tensor, only: Tensor | None = None) -> Tensor:
        """The plan, float64 of the cost's shape (n, m); of the rows `only`, given the cost of these alone."""
        rows = self.rows if only is None else self.rows[only]
        return (rows[:, None] + self.columns[None, :] - cost.double() / self.epsilon).exp()


def solve(
    cost: Tensor,
    epsilon: float,
    *,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    iterations: int = 200,
    tolerance: float = 1e-6,
    relaxed: float | None = None,
    domain: Domain = "auto",
) -> Solution:
    """The plan of a cost (n, m), on the cost's device.

    rows, columns: the marginals, positive, each with a sum of 1; uniform where they are not given.
    tolerance:     of the error at which it stops.
    relaxed:       where given, the columns' marginal is only asked for, by this factor times its Kullback-Leibler divergence.
    domain:        exp multiplies with exp(-C / epsilon), two products of a matrix and a vector an iteration; log never leaves
                   logarithms, for costs of any size. auto takes the first where it is safe.

    Raises DataError for a cost that is not finite.
    """
    import torch

    matrix = cost.double()
    if not bool(torch.isfinite(matrix).all()):
        raise DataError("a transport cost holds NaN or infinity", hint="the activations overflow on this data")
    count, other = matrix.shape
    first = _marginal(rows, count, matrix)
    second = _marginal(columns, other, matrix)
    power = 1.0 if relaxed is None else relaxed / (relaxed + epsilon)
    low = matrix.min()
    if domain == "auto":
        domain = "exp" if float(matrix.max() - low) / epsilon <= SAFE else "log"
    run = _by_products if domain == "exp" else _by_logarithms
    f, g, error, done = run((matrix - low) / epsilon, first, second, power, iterations, tolerance)
    return Solution(f + low / epsilon, g, epsilon, error, done, error <= tolerance)


def _marginal(given: Tensor | None, count: int, like: Tensor) -> Tensor:
    import torch

    if given is None:
        return torch.full((count,), 1.0 / count, dtype=torch.float64, device=like.device)
    return given.to(like)


def _by_products(
    cost: Tensor, rows: Tensor, columns: Tensor, power: float, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, float, int]:
    """Scalings u and v of K = exp(-cost): K is read twice an iteration."""
    import torch

    kernel = (-cost).exp()
    u, v = torch.ones_like(rows), torch.ones_like(columns)
    error, done = math.inf, 0
    while done < iterations and error > tolerance:
        before = u
        for _ in range(min(EVERY, iterations - done)):
            before, u = u, rows / (kernel @ v)
            v = (columns / (kernel.T @ u)) ** power
            done += 1
        product = kernel @ v
        error = float((u * product - rows).abs().sum() if power == 1.0 else ((u - before) * product).abs().sum())
    u = rows / (kernel @ v)
    if power == 1.0:
        error = float((v * (kernel.T @ u) - columns).abs().sum())
    return u.log(), v.log(), error, done


def _by_logarithms(
    cost: Tensor, rows: Tensor, columns: Tensor, power: float, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, float, int]:
    """The same with logarithms of all, and sums by their largest terms."""
    import torch

    above, beside = rows.log(), columns.log()
    f, g = torch.zeros_like(rows), torch.zeros_like(columns)
    error, done = math.inf, 0
    while done < iterations and error > tolerance:
        before = f
        for _ in range(min(EVERY, iterations - done)):
            before, f = f, above - torch.logsumexp(g[None, :] - cost, 1)
            g = power * (beside - torch.logsumexp(f[:, None] - cost, 0))
            done += 1
        mass = f + torch.logsumexp(g[None, :] - cost, 1)
        error = float(
            (mass.exp() - rows).abs().sum() if power == 1.0 else (mass.exp() - (mass + before - f).exp()).abs().sum()
        )
    f = above - torch.logsumexp(g[None, :] - cost, 1)
    if power == 1.0:
        error = float(((g + torch.logsumexp(f[:, None] - cost, 0)).exp() - columns).abs().sum())
    return f, g, error, done
