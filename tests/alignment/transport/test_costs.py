"""Correlations of neurons, and the coupling of layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mergery.alignment.transport.costs import correlation, cost_of, standardised
from mergery.alignment.transport.coupling import couple, monotone, normed


def test_correlations_are_pearsons_whatever_scale_and_offset() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)), rng.normal(size=(50, 3))
    wanted = np.corrcoef(x, y, rowvar=False)[:4, 4:]
    found = correlation(standardised(torch.from_numpy(x) * 7 - 3), standardised(torch.from_numpy(y) * 0.01 + 5))
    assert np.abs(found.numpy() - wanted).max() < 1e-6


def test_features_that_do_not_vary_are_dead_and_match_nothing() -> None:
    x = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 2.5
    found = standardised(x)
    assert found.dead.tolist() == [False, True, False] and found.scale[1] == 0
    assert correlation(found, found)[1].tolist() == [0.0, 0.0, 0.0]
    assert found.size[1] == pytest.approx(2.5)


def test_a_neurons_negative_costs_two_or_nothing() -> None:
    x = standardised(torch.randn(30, 1, generator=torch.Generator().manual_seed(0)))
    opposite = standardised(-x.values)
    assert cost_of(correlation(x, opposite), signed=False).item() == pytest.approx(2.0, abs=1e-5)
    assert cost_of(correlation(x, opposite), signed=True).item() == pytest.approx(0.0, abs=1e-5)


def _layers() -> torch.Tensor:
    """Two layers of the target that are the first and the last of four: the two between are like neither."""
    return torch.tensor([[0.0, 1.0, 1.0, 0.9], [0.9, 1.0, 1.0, 0.0]])


def test_a_balanced_coupling_gives_all_layers_the_same_mass_and_others_may_leave_some_out() -> None:
    balanced, unbalanced, argmin, ordered = (
        couple(_layers(), _layers(), how, eta=0.1, relaxed=0.05)
        for how in ("balanced", "unbalanced", "argmin", "monotone")
    )
    assert balanced.converged and balanced.error < 1e-9
    assert balanced.masses.sum(0).tolist() == pytest.approx([0.25] * 4)
    assert balanced.shares[0].tolist() == pytest.approx([0.5, 0.25, 0.25, 0.0], abs=1e-3)
    assert unbalanced.shares[0, 0] > 0.98 and unbalanced.spread < 1.2 < balanced.spread
    assert argmin.shares.tolist() == ordered.shares.tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


def test_a_copy_is_coupled_with_itself() -> None:
    cost = 1.0 - torch.eye(4)
    assert (couple(cost, cost, "balanced", eta=0.1, relaxed=1.0).shares - torch.eye(4)).abs().max() < 1e-3


def test_layers_never_go_back_in_a_monotone_coupling() -> None:
    cost = torch.tensor([[5.0, 5.0, 0.0], [0.0, 5.0, 4.0], [5.0, 0.0, 4.0]])
    assert monotone(cost) == [0, 0, 1]
    assert cost.argmin(1).tolist() == [2, 0, 1]


def test_normed_costs_forget_their_size() -> None:
    cost = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    assert (normed(cost) - normed(3 * cost + 7)).abs().max() < 1e-6
    assert normed(torch.ones(2, 2)).tolist() == [[0, 0], [0, 0]]
