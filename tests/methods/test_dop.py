import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.dop import dop
from mergery.testing.reference.projections import dual_loss, dual_slope

from .hard_cases import hard_cases
from .matrices import apart, diagonal
from .merging import equals, merge, normal, preset, suite

ADAM = {"solver": "adam", "stability": 0.8, "energy": 0.99999}


@suite(dop, fixed_point={}, mirrored=True)
def test_conformance(check):
    check()


@suite(dop, settings={"energy": 0.7, "stability": 0.8, "scale": 0.5}, mirrored=True)
def test_conformance_with_leading_directions(check):
    check()


@suite(dop, settings={**ADAM, "steps": 10}, scale_free=False, close=1e-5, tolerance=1e-5)
def test_conformance_of_the_published_descent(check):
    check()


@hard_cases(dop)
def test_hard_cases(case):
    case()


@hard_cases(dop, bounded=False, solver="adam", steps=5, rate=1e-7)
def test_hard_cases_of_the_published_descent(case):
    case()


def test_by_hand():
    # along one direction each, X counts with its square: (1 * 1 + 4 * 2) / (1 + 4); weighed 3 to 1, (3 * 1 + 4 * 2) / (3 + 4)
    assert equals(merge(dop, [[[1.0]], [[2.0]]], [[0.0]]), [[9 / 5]])
    assert equals(merge(dop, [[[1.0]], [[2.0]]], [[0.0]], stability=0.75), [[11 / 7]])
    # a third model counts as much as the two before it together count half: (2 * 1.8^3 + 1) / (2 * 1.8^2 + 1)
    assert equals(merge(dop, [[[1.0]], [[2.0]], [[1.0]]], [[0.0]]), [[(2 * 1.8**3 + 1) / (2 * 1.8**2 + 1)]])
    # a step of Adam is the rate, from the mean towards the larger one
    assert equals(merge(dop, [[[1.0]], [[3.0]]], [[0.0]], **ADAM, steps=1, rate=0.125), [[2.125]])


@settings(max_examples=12)
@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.05, 0.95), st.integers(0, 1000), st.sampled_from([1.0, 1e-6]))
def test_the_closed_form_is_the_minimum(out, into, share, seed, size):
    deltas = [normal(out, into, seed=seed + place) * size for place in range(2)]
    point = merge(dop, deltas, torch.zeros(out, into), stability=share).double().numpy()
    wide = [delta.double().numpy() for delta in deltas]
    shares = [share, 1 - share]
    slope = sum(part * dual_slope(point, side) for part, side in zip(shares, wide, strict=True))
    steep = sum(part * np.abs(dual_slope(0 * point, side)).max() for part, side in zip(shares, wide, strict=True))
    assert np.abs(slope).max() <= 1e-5 * steep


@settings(max_examples=12)
@given(st.integers(2, 4), st.integers(1, 2), st.integers(0, 1000))
def test_tasks_at_right_angles_are_summed(k, rank, seed):
    # each is felt by its own directions alone, so that the sum satisfies all
    deltas = apart(k, rank, k * rank + 1, k * rank + 2, seed)
    assert equals(merge(dop, deltas, torch.zeros_like(deltas[0]), scale=1.0), sum(deltas), 2e-5)


def test_the_published_descent_lowers_both_losses():
    deltas = [normal(6, 8, seed=seed) for seed in (1, 2)]
    wide = [delta.double().numpy() for delta in deltas]
    losses = []
    for steps in (0, 5, 20, 80):
        out = merge(dop, deltas, torch.zeros(6, 8), **ADAM, steps=steps, rate=1e-3).double().numpy()
        losses.append([dual_loss(out, side) for side in wide])
    assert all(after[0] < before[0] for before, after in itertools.pairwise(losses))
    assert sum(losses[-1]) < sum(losses[0])


def test_energy_keeps_the_fewest_directions_that_reach_it():
    deltas, zero = [diagonal(6, 3, 1), diagonal(0, 0, 4)], torch.zeros(3, 3)
    # 6 of 10 is enough for 0.6, and 0.61 needs the second as well; of the last the other side knows more
    assert equals(merge(dop, deltas, zero, energy=0.6), diagonal(6, 0, 4), 1e-5)
    assert equals(merge(dop, deltas, zero, energy=0.61), diagonal(6, 3, 4), 1e-5)
    assert equals(merge(dop, deltas, zero), diagonal(6, 3, (1 + 4**3) / (1 + 4**2)), 1e-5)


def test_stability_favours_the_first():
    deltas, zero = [normal(5, 7, seed=seed) for seed in (1, 2)], torch.zeros(5, 7)
    away = [float((merge(dop, deltas, zero, stability=share) - deltas[0]).norm()) for share in (0.2, 0.5, 0.8, 1.0)]
    assert all(after < before for before, after in itertools.pairwise(away))
    assert away[-1] < 1e-5
    assert preset(dop, "paper") == ADAM | {"scale": 1.0}
    assert {name: dop.settings[name].default for name in ("steps", "rate")} == {"steps": 200, "rate": 1e-4}


@pytest.mark.parametrize("given_", [{"steps": -1}, {"rate": -1e-4}])
def test_steps_go_forwards(given_):
    with pytest.raises(RecipeError, match="steps and rate must not be negative"):
        merge(dop, [normal(2, 2)], torch.zeros(2, 2), **given_)
