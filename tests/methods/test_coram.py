import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.coram import coram

from .merging import equals, hard_cases, merge, normal, suite


def turn(degrees: float) -> torch.Tensor:
    angle = math.radians(degrees)
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@suite(coram)
def test_conformance(check):
    check()


@suite(coram, settings={"height": 3, "scale": 0.7})
def test_conformance_of_other_slices(check):
    check()


def test_by_hand():
    # rows alone: the mean of lengths 2 and 4 in the mean direction of (0, 1) and (1, 0)
    out = merge(coram, [[[0.0, 2.0]], [[4.0, 0.0]]], [[2.0, 0.0]], height=1, scale=1.0)
    assert equals(out, [[3 / math.sqrt(2), 3 / math.sqrt(2)]])


def test_rotations_average_as_angles_do():
    base = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    out = merge(coram, [turn(10) @ base, turn(50) @ base], base, scale=1.0)
    assert equals(out, turn(30) @ base)
    shrunk = (turn(10) @ base + turn(50) @ base) / 2  # as an average of numbers would
    assert float(out.norm()) == pytest.approx(float(base.norm()), rel=1e-6) and float(shrunk.norm()) < float(
        base.norm()
    )


def test_a_reflection_is_none_of_the_turns():
    # the pair of the second direction is the least alike, and takes the other sign on both sides: the same matrix
    base = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    swapped = torch.tensor([[0.0, 1.0], [2.0, 0.0]])  # a quarter of a turn of rows (2, 0) and (0, -1)
    assert equals(merge(coram, [swapped], base, scale=1.0), swapped)


@settings(max_examples=20)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(1, 9), st.integers(0, 1000))
def test_a_model_comes_back(out, into, height, seed):
    base = normal(out, into, seed=seed)
    model = base + 0.3 * normal(out, into, seed=seed + 1)
    assert equals(merge(coram, [model, model], base, height=height, scale=1.0), model, 1e-5)


def test_small_changes_are_averaged():
    base, changes = normal(16, 40, seed=1), [1e-4 * normal(16, 40, seed=seed) for seed in (2, 3)]
    out = merge(coram, [base + change for change in changes], base, scale=1.0)
    assert equals(out - base, sum(changes) / 2, 2e-2)


def test_the_length_of_a_task_vector_is_restored():
    base = normal(16, 40, seed=1)
    changes = [0.01 * normal(16, 40, seed=seed) for seed in (2, 3, 4)]
    length = math.sqrt(sum(float(change.norm()) ** 2 for change in changes) / 3)
    out = merge(coram, [base + change for change in changes], base)
    assert float((out - base).norm()) == pytest.approx(1.15 * length, rel=1e-4)
    # between 3.5 and 16 times the gain falls with the logarithm: at sqrt(3.5 * 16) = 7.48 times it is the middle, 0.825
    changes[0] *= math.sqrt(3.5 * 16) * float(changes[1].norm()) / float(changes[0].norm())
    changes[2] = changes[1].clone()
    length = math.sqrt(sum(float(change.norm()) ** 2 for change in changes) / 3)
    out = merge(coram, [base + change for change in changes], base)
    assert float((out - base).norm()) == pytest.approx(0.825 * length, rel=1e-3)


@pytest.mark.parametrize("name", hard_cases())
def test_hard_cases(name):
    deltas = hard_cases()[name]
    base = 3.0 * normal(6, 8, seed=50)
    assert merge(coram, [base + delta for delta in deltas], base).isfinite().all()


def test_settings_are_checked():
    with pytest.raises(RecipeError, match="height must be at least 1"):
        merge(coram, [normal(2, 2, seed=1)], normal(2, 2, seed=2), height=0)
