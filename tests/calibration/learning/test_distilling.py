"""Distilling block by block: by hand, against least squares, and what must stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mergery.calibration.learning.distilling import Call, distil
from mergery.calibration.model import Unit


def unit(width: int) -> Unit:
    module = torch.nn.Linear(width, width, bias=False)
    return Unit("block", module, [(module, "weight", "weight")], True)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_model_is_found_from_any_merge():
    """Its own weights answer its own texts without a gap: m + A * tau with A = 1 - a, over m = b + a tau."""
    base, tau, rows = normal(4, 4, seed=1), normal(4, 4, seed=2), normal(30, 4, seed=3)
    merged = {"weight": base + 0.3 * tau}
    calls = [Call(0, (rows,), {}, rows @ (base + tau).T)]
    found, before, after = distil(unit(4), merged, [{"weight": tau}], calls, 0.05, 400)
    assert torch.allclose(found["weight"], base + tau, atol=1e-3)
    assert after < 1e-6 * before


def test_of_two_models_it_ends_at_the_least_squares():
    base, rows = normal(3, 3, seed=1), [normal(20, 3, seed=seed) for seed in (2, 3)]
    vectors = [normal(3, 3, seed=seed) for seed in (4, 5)]
    calls: list[Any] = [Call(t, (rows[t],), {}, rows[t] @ (base + vectors[t]).T) for t in range(2)]
    found, _, after = distil(unit(3), {"weight": base}, [{"weight": each} for each in vectors], calls, 0.05, 800)
    pull = sum((base + vectors[t]) @ rows[t].T @ rows[t] for t in range(2))
    expected = pull @ torch.linalg.inv(sum(each.T @ each for each in rows))
    assert torch.allclose(found["weight"], expected, atol=1e-2)
    least = sum(float((rows[t] @ (expected - base - vectors[t]).T).square().mean()) for t in range(2))
    assert after == pytest.approx(least, rel=1e-3)


def test_what_no_model_has_changed_stays_and_no_epochs_change_nothing():
    base, tau, rows = normal(4, 4, seed=1), normal(4, 4, seed=2), normal(9, 4, seed=3)
    tau[1] = 0.0
    calls = [Call(0, (rows,), {}, rows @ (base + tau).T)]
    found, before, after = distil(unit(4), {"weight": base}, [{"weight": tau}], calls, 0.1, 10)
    assert torch.equal(found["weight"][1], base[1]) and after < before
    found, before, after = distil(unit(4), {"weight": base}, [{"weight": tau}], calls, 0.1, 0)
    assert torch.equal(found["weight"], base) and before == after
    still = {"weight": torch.zeros(4, 4)}
    assert distil(unit(4), {"weight": base}, [still], calls, 0.1, 5)[0] == {}
