import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.doge import common, doge
from mergery.testing.reference.projections import conflict, conflict_slope

from .hard_cases import hard_cases
from .matrices import apart, orthonormal
from .merging import equals, merge, normal, preset, suite
from .small_models import EMBED, NORM, by_recipe

FULL: dict[str, Any] = {"density": 1.0}


@suite(doge, settings={"steps": 8}, close=1e-5, tolerance=1e-5)
def test_conformance(check):
    check()


@suite(doge, settings={**FULL, "steps": 8, "shared": 0.5}, fixed_point={}, close=1e-5, tolerance=1e-5)
def test_conformance_of_all_entries(check):
    check()


@suite(doge, settings={"size": 0.07, "rate": 1e-4, "steps": 8}, scale_free=False, close=1e-5, tolerance=1e-5)
def test_conformance_as_published(check):
    check()


@hard_cases(doge, bounded=False, steps=10)
def test_hard_cases(case):
    case()


def test_by_hand():
    # two tasks of one neuron: begins at their mean (1, 2); gaps 2 * (2 - 1) and 4 * (4 - 2) both call for more
    deltas, zero = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])], torch.zeros(1, 2)
    own: dict[str, Any] = {**FULL, "shared": 0.0, "size": 1.0}
    assert equals(merge(doge, deltas, zero, **own, steps=0), [[1, 1]])
    # f = 1/2 each; the first step moves both entries by the rate, which the sum of the f's passes on whole
    assert equals(merge(doge, deltas, zero, **own, steps=1, rate=0.25), [[1.25, 1.25]])
    # what answers to both as themselves is (2, 2)
    assert equals(merge(doge, deltas, zero, **own, steps=2000, rate=0.01), [[2, 2]], 1e-3)
    # of each task only the larger entries count, with the change that falls on them
    both = [torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]])]
    kept = merge(doge, both, zero, density=0.5, shared=0.0, weight=5**0.5, size=0.5, steps=1, rate=0.25)
    assert equals(kept, [[0.5 * 2.25, 0.5 * 2.25]])


def test_lengths_are_made_equal():
    first, second = normal(5, 7, seed=1), 100 * normal(5, 7, seed=2)
    out = merge(doge, [first, second], torch.zeros(5, 7), **FULL, steps=0, size=0.07)
    assert equals(out, 0.07 * (first / first.norm() + second / second.norm()))
    mean = (first.norm() + second.norm()) / 4
    assert equals(
        merge(doge, [first, second], torch.zeros(5, 7), **FULL, steps=0),
        mean * (first / first.norm() + second / second.norm()),
    )


@settings(max_examples=12)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(2, 7), st.integers(0, 1000))
def test_the_slope_is_that_of_the_loss(k, out, into, seed):
    deltas = [normal(out, into, seed=seed + task).double() for task in range(k)]
    factors = [0.3 + 0.1 * task for task in range(k)]
    change = normal(out, into, seed=seed + 9).double().requires_grad_()
    stack = torch.stack(deltas)
    whole = torch.einsum("k,kmn->mn", torch.tensor(factors, dtype=torch.float64), stack + change)
    loss = ((stack - whole) * stack).sum(-1).square().sum()
    loss.backward()
    assert change.grad is not None
    plain = [delta.numpy() for delta in deltas]
    assert loss.item() == pytest.approx(conflict(change.detach().numpy(), plain, factors))
    assert np.allclose(change.grad.numpy(), conflict_slope(change.detach().numpy(), plain, factors))


@settings(max_examples=10)
@given(st.integers(2, 4), st.integers(0, 1000), st.sampled_from([1.0, 1e-6]))
def test_steps_lower_the_conflict(k, seed, size):
    deltas = [normal(6, 9, seed=seed + task) for task in range(k)]
    lengths = [float(delta.norm()) for delta in deltas]
    factors = [sum(lengths) / k**2 / length for length in lengths]
    losses = []
    for steps in (0, 10, 100):
        out = merge(doge, [size * delta for delta in deltas], torch.zeros(6, 9), **FULL, steps=steps).double() / size
        whole = sum(f * delta.double() for f, delta in zip(factors, deltas, strict=True))
        losses.append(conflict(((out - whole) / sum(factors)).numpy(), [d.double().numpy() for d in deltas], factors))
    assert all(after < before for before, after in itertools.pairwise(losses))


def test_shared_directions_stay():
    # both tasks write to the first output most; a third direction is each one's own
    left, right = orthonormal(12, 3, 1), orthonormal(9, 4, 2)
    deltas = [
        left[:, [0, task]] @ torch.diag(torch.tensor([3.0, 1.0]).double()) @ right[:, [0, task]].mT for task in (1, 2)
    ]
    basis = common([delta.double() for delta in deltas], 1 / 9)
    assert equals(basis @ basis.mT, torch.outer(left[:, 0], left[:, 0]))
    out = merge(doge, deltas, torch.zeros(12, 9), **FULL, shared=1 / 9, steps=1)
    # Adam's step is an entry's sign, but the shared direction has none in the slope
    start = merge(doge, deltas, torch.zeros(12, 9), **FULL, steps=0)
    assert (out - start).abs().max() > 0.01


def test_directions_that_tie_are_not_shared():
    # tasks at right angles share nothing: no direction stands out
    deltas = [delta.double() for delta in apart(2, 3, 12, 12, 4)]
    assert not common(deltas, 1 / 6).any()
    assert not common([normal(6, 6).double()], 1 / 3).any()


def test_the_papers_choices():
    assert preset(doge, "paper") == {"size": 0.07, "rate": 1e-4}
    assert {name: doge.settings[name].default for name in ("shared", "steps", "density")} == {
        "shared": 1 / 6,
        "steps": 400,
        "density": 0.3,
    }
    base = by_recipe(doge, preset="paper", steps=1)
    plain = by_recipe(doge, steps=1)
    assert not equals(base[EMBED], plain[EMBED])
    assert not equals(base[NORM], plain[NORM])


@pytest.mark.parametrize(
    ("given_", "what"),
    [({"steps": -1}, "steps and rate"), ({"rate": -1.0}, "steps and rate"), ({"size": -1.0}, "size")],
)
def test_settings_that_make_no_sense(given_, what):
    with pytest.raises(RecipeError, match=f"{what} must not be negative"):
        merge(doge, [normal(2, 2)], torch.zeros(2, 2), **given_)
