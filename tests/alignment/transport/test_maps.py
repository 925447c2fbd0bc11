"""Plans as maps: rows that add up to one, and copies that are larger, or of the other sign."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mergery.alignment.transport.costs import correlation, cost_of, standardised
from mergery.alignment.transport.maps import Maps
from mergery.alignment.transport.sinkhorn import solve


def _both(change: torch.Tensor, *, sign: str = "plain", scale: str = "deviation", mode: str = "normalised") -> Any:
    """A layer's inputs and outputs in the target; in the source each neuron is multiplied by a number of `change`. Gives the
    target's weight and the transported one.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 10, generator=generator)
    inputs = torch.randn(400, 10, generator=generator)
    outputs = inputs @ weight.T
    theirs = change[:6, None] * weight / change[None, 6:]
    spaces = [(outputs, outputs * change[:6]), (inputs, inputs * change[6:])]
    maps = []
    for own, other in spaces:
        target, source = standardised(own), standardised(other)
        found = solve(cost_of(correlation(target, source), signed=sign == "signed"), 0.01, iterations=2000)
        maps.append(Maps(target, source, found, mode=mode, sign=sign, scale=scale, order=None))
    return weight, maps[0].out(None) @ theirs @ maps[1].into(None), maps


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def test_rows_of_both_maps_add_up_to_one() -> None:
    _, _, (after, before) = _both(torch.ones(16), scale="none")
    assert after.out(None).sum(1).tolist() == pytest.approx([1.0] * 6)
    assert before.into(None).sum(1).tolist() == pytest.approx([1.0] * 10)


def test_plans_as_they_are_have_a_mass_of_one() -> None:
    _, _, (after, before) = _both(torch.ones(16), scale="none", mode="paper")
    assert after.out(None).sum() == pytest.approx(1.0, abs=1e-5)
    assert before.into(None).sum() == pytest.approx(1.0, abs=1e-5)


def test_neurons_of_another_size_come_back_only_by_their_deviations() -> None:
    change = torch.rand(16, generator=torch.Generator().manual_seed(1)) * 4 + 0.1
    weight, found, _ = _both(change)
    assert _error(found, weight) < 1e-5
    weight, found, _ = _both(change, scale="none")
    assert _error(found, weight) > 0.5


def test_neurons_of_the_other_sign_come_back_only_by_signed_correlations() -> None:
    change = torch.tensor([1.0, -1.0] * 8)
    weight, found, _ = _both(change, sign="signed")
    assert _error(found, weight) < 1e-5
    weight, found, _ = _both(change)
    assert _error(found, weight) > 0.5


def test_rows_and_columns_can_be_made_alone() -> None:
    _, _, (after, before) = _both(torch.rand(16, generator=torch.Generator().manual_seed(1)) + 0.5)
    some = torch.tensor([4, 1])
    assert torch.allclose(after.out(some), after.out(None)[some], atol=1e-6)
    assert torch.allclose(before.into(some), before.into(None)[:, some], atol=1e-6)


def test_regression_gives_a_neuron_as_much_as_its_match_foretells() -> None:
    """Of two neurons one is the source's and the other is like nothing there: it gets next to nothing of the source."""
    generator = torch.Generator().manual_seed(3)
    source = torch.randn(4000, 2, generator=generator)
    target = torch.stack([source[:, 0], torch.randn(4000, generator=generator)], 1)
    own, other = standardised(target), standardised(source)
    found = solve(cost_of(correlation(own, other), signed=False), 0.01, iterations=2000)
    sizes = {}
    for scale in ("deviation", "regression"):
        out = Maps(own, other, found, mode="normalised", sign="plain", scale=scale, order=None).out(None)
        sizes[scale] = out.norm(dim=1).tolist()
    assert sizes["deviation"] == pytest.approx([1.0, 1.0], abs=0.05)
    assert sizes["regression"][0] == pytest.approx(1.0, abs=0.05) and sizes["regression"][1] < 0.05
