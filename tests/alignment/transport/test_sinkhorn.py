"""Plans of optimal transport: their marginals, their limits, a float64 reference, one by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mergery.alignment.transport.sinkhorn import solve
from mergery.errors import DataError


def _cost(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.0, 2.0, (rows, columns)))


def _reference(cost: np.ndarray, epsilon: float, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The definition, scaled by turns until nothing changes, in float64."""
    plan = np.exp(-cost / epsilon)
    for _ in range(20_000):
        plan *= (b / plan.sum(0))[None, :]
        plan *= (a / plan.sum(1))[:, None]
    return plan


@pytest.mark.parametrize("domain", ["exp", "log"])
def test_marginals_hold_and_the_plan_is_the_references(domain: Any) -> None:
    cost = _cost(7, 5)
    a, b = torch.full((7,), 1 / 7, dtype=torch.float64), torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    found = solve(cost, 0.1, columns=b, iterations=5000, tolerance=1e-12, domain=domain)
    plan = found.plan(cost)
    assert found.converged and found.error <= 1e-12 and found.iterations < 5000
    assert (plan.sum(1) - a).abs().max() < 1e-14
    assert (plan.sum(0) - b).abs().max() < 1e-12
    assert np.abs(plan.numpy() - _reference(cost.numpy(), 0.1, a.numpy(), b.numpy())).max() < 1e-12


def test_both_domains_agree() -> None:
    cost = _cost(20, 30)
    one, other = (solve(cost, 0.05, iterations=300, domain=domain).plan(cost) for domain in ("exp", "log"))
    assert (one - other).abs().max() < 1e-14


def test_two_by_two_by_hand() -> None:
    """With uniform marginals and costs 0 and 1 the plan is (e, 1; 1, e) over its sum, e = exp(1 / epsilon)."""
    cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    e = np.exp(1 / 0.5)
    wanted = torch.tensor([[e, 1.0], [1.0, e]]).double() / (2 * e + 2)
    assert (solve(cost, 0.5).plan(cost) - wanted).abs().max() < 1e-12


def test_a_large_epsilon_gives_the_product_of_the_marginals() -> None:
    cost = _cost(6, 9)
    assert (solve(cost, 1e6).plan(cost) - 1 / 54).abs().max() < 1e-6


def test_a_small_epsilon_gives_the_best_assignment() -> None:
    from scipy.optimize import linear_sum_assignment

    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    cost = 0.4 * _cost(12, 12) + 1.0 - torch.eye(12).double()[order]
    rows, columns = linear_sum_assignment(cost.numpy())
    wanted = torch.zeros(12, 12).double()
    wanted[rows, columns] = 1 / 12
    found = solve(cost, 0.01, iterations=5000)
    assert found.converged
    assert (found.plan(cost) - wanted).abs().max() < 1e-6


def test_a_symmetric_cost_gives_a_symmetric_plan() -> None:
    cost = _cost(10, 10)
    cost = cost + cost.T
    plan = solve(cost, 0.1, iterations=5000, tolerance=1e-12).plan(cost)
    assert (plan - plan.T).abs().max() < 1e-6


def test_what_has_not_converged_says_so() -> None:
    found = solve(_cost(40, 40), 1e-3, iterations=10)
    assert not found.converged and found.error > 1e-6 and found.iterations == 10
    assert (found.plan(_cost(40, 40)).sum(1) - 1 / 40).abs().max() < 1e-14  # rows are exact in any case


def test_a_relaxed_marginal_leaves_out_what_fits_nothing() -> None:
    cost = torch.tensor([[0.0, 2.0, 2.0], [2.0, 0.0, 2.0]])
    wanted = solve(cost, 0.1, iterations=2000, tolerance=1e-10).plan(cost).sum(0)
    left = solve(cost, 0.1, relaxed=0.05, iterations=2000, tolerance=1e-10)
    assert left.converged
    assert wanted[2] == pytest.approx(1 / 3) and left.plan(cost).sum(0)[2] < 1e-5
    assert left.plan(cost).sum(1).tolist() == pytest.approx([0.5, 0.5])
    other = solve(cost, 0.1, relaxed=0.05, iterations=2000, tolerance=1e-10, domain="log")
    assert (other.plan(cost) - left.plan(cost)).abs().max() < 1e-12


def test_rows_are_made_again_alone() -> None:
    cost = _cost(8, 6)
    found, some = solve(cost, 0.1), torch.tensor([5, 2])
    assert torch.equal(found.plan(cost[some], some), found.plan(cost)[some])


def test_costs_far_beyond_epsilon_are_solved_in_logarithms() -> None:
    cost = _cost(5, 5) * 1e4
    found = solve(cost, 0.1, iterations=5000)
    assert bool(torch.isfinite(found.plan(cost)).all())


def test_no_plan_of_what_is_not_finite() -> None:
    with pytest.raises(DataError, match="a transport cost holds NaN or infinity"):
        solve(torch.tensor([[0.0, float("nan")]]), 0.1)
