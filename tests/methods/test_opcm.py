import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.methods.opcm import opcm

from .hard_cases import hard_cases
from .matrices import apart, diagonal
from .merging import equals, merge, normal, preset, suite


@suite(opcm, fixed_point={}, mirrored=True)
def test_conformance(check):
    check()


@suite(opcm, settings={"alpha": 1.0, "scale": 0.5})
def test_conformance_without_any_direction_twice(check):
    check()


@hard_cases(opcm)
def test_hard_cases(case):
    case()


def test_by_hand():
    # the second's diagonal lies along the first's two directions and goes; what crosses them stays at alpha 0
    first, second = diagonal(4, 3), torch.tensor([[5.0, 12.0], [0.0, 7.0]])
    length, goal = math.sqrt(4**2 + 3**2 + 12**2), (5 + math.sqrt(5**2 + 12**2 + 7**2)) / 2
    merged = torch.tensor([[4.0, 12.0], [0.0, 3.0]]) * goal / length
    assert equals(merge(opcm, [first, second], torch.zeros(2, 2), alpha=0.0), merged)
    # 4 is 57 % of the sum: at 0.6 one direction leads, which is on the diagonal anyway; at 1 both, and nothing is left
    assert equals(merge(opcm, [first, second], torch.zeros(2, 2), alpha=0.6), merged)
    assert equals(merge(opcm, [first, second], torch.zeros(2, 2), alpha=1.0), first * goal / 5)


def test_leading_directions_are_taken_from_both_sides_at_once():
    # the first two of three directions hold 9 of 10: what joins them goes, what joins one of them and the third stays
    first, second = diagonal(5, 4, 1), torch.ones(3, 3)
    out = merge(opcm, [first, second], torch.zeros(3, 3), alpha=0.95)
    merged = torch.tensor([[5.0, 0, 1], [0, 4, 1], [1, 1, 1]])
    assert equals(out / out[0, 0], merged / 5)


@settings(max_examples=12)
@given(st.integers(1, 5), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 1000), st.sampled_from([1.0, 1e-6]))
def test_the_distance_from_the_base_stays(k, alpha, seed, size):
    deltas = [normal(5, 7, seed=seed + place) * size * (1 + place) for place in range(k)]
    out = merge(opcm, deltas, torch.zeros(5, 7), alpha=alpha)
    assert float(out.norm()) == pytest.approx(float(sum(delta.norm() for delta in deltas)) / k, rel=1e-5)


@settings(max_examples=12)
@given(st.integers(2, 4), st.integers(1, 2), st.integers(0, 1000))
def test_tasks_at_right_angles_are_summed(k, rank, seed):
    deltas = apart(k, rank, k * rank + 1, k * rank + 2, seed)
    out = merge(opcm, deltas, torch.zeros_like(deltas[0]))
    whole = torch.stack(deltas).sum(0)
    size = sum(float(delta.norm()) for delta in deltas) / k
    assert equals(out, whole * size / float(whole.norm()), 1e-5)


def test_what_a_later_model_repeats_is_not_added():
    first, second = normal(6, 8, seed=1), normal(6, 8, seed=2)
    zero = torch.zeros(6, 8)
    once, twice = merge(opcm, [first, second], zero), merge(opcm, [first, first, second], zero)
    assert equals(once / once.norm(), twice / twice.norm(), 1e-5)


def test_earlier_models_have_precedence():
    first, second = normal(6, 8, seed=1), normal(6, 8, seed=2)
    out = merge(opcm, [first, second], torch.zeros(6, 8), alpha=1.0)
    along = [float((out * own).sum() / own.square().sum()) for own in (first, second)]
    assert along[0] > 2 * along[1]
    assert preset(opcm, "paper") == {"alpha": 0.5}
