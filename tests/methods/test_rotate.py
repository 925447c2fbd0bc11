import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mergery
from mergery.errors import RecipeError
from mergery.methods.rotate import power, rotate

from .matrices import of_rank, orthonormal, spectrum
from .merging import equals, merge, normal, preset, suite
from .small_models import BASE, EMBED, LINEAR, MODELS, NORM, mean


@suite(rotate, fixed_point={}, close=1e-5, tolerance=1e-5)
def test_conformance(check):
    check()


@suite(rotate, settings={"strength": 1.0, "blend": 0.0, "centre": False}, fixed_point={}, close=1e-5, tolerance=1e-5)
def test_conformance_of_a_whole_turn(check):
    check()


@suite(rotate, settings={"strength": 0.3, "blend": 0.0, "centre": False}, fixed_point={}, close=1e-5, tolerance=1e-5)
def test_conformance_of_a_part_of_a_turn(check):
    check()


def plane(degrees: float) -> torch.Tensor:
    angle = math.radians(degrees)
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)


def test_by_hand():
    # the second is the first, turned by 60 degrees and twice as long; half the turn, and half the length's way
    first = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    models = [first, 2 * first @ plane(60)]
    assert equals(merge(rotate, models, centre=False), 1.5 * first @ plane(30))
    assert equals(merge(rotate, models, centre=False, blend=0.0), first @ plane(30))
    assert equals(merge(rotate, models, centre=False, strength=0.0, blend=1.0), 2 * first)
    # rows about their mean: the means are interpolated, what is left is turned
    shifted = [models[0] + torch.tensor([1.0, 0.0]), models[1] + torch.tensor([0.0, 5.0])]
    own = first - first.mean(0)
    whole = own @ plane(60) + torch.tensor([0.0, 5.0]) + (2 * first @ plane(60)).mean(0)
    assert equals(merge(rotate, shifted, strength=1.0, blend=0.0), whole)


def test_half_turns_and_reflections_pass_through_zero():
    first = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    assert equals(merge(rotate, [first, -first], centre=False, strength=0.25, blend=0.0), first * math.cos(math.pi / 4))
    mirrored = first * torch.tensor([1.0, -1.0])
    out = merge(rotate, [first, mirrored], centre=False, strength=0.5, blend=0.0)
    assert equals(out, first * torch.tensor([1.0, 0.0]))
    assert equals(merge(rotate, [first, mirrored], centre=False, strength=1.0, blend=0.0), mirrored)


@settings(max_examples=12)
@given(st.integers(1, 9), st.integers(0, 1000), st.sampled_from([2, 3, 5]))
def test_a_root_of_a_turn_makes_it_again(size, seed, root):
    turn = orthonormal(size, size, seed)
    if torch.det(turn) < 0:
        turn[0] *= -1.0
    part = power(turn, 1.0 / root)
    assert equals(part @ part.mT, torch.eye(size), 1e-9)
    assert equals(torch.linalg.matrix_power(part, root), turn, 1e-8)


@settings(max_examples=12)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 1000), st.sampled_from([1.0, 1e-6]))
def test_the_ends_are_the_two_models(out, into, seed, size):
    models = [normal(out, into, seed=seed) * size, normal(out, into, seed=seed + 1) * size]
    assert equals(merge(rotate, models, strength=0.0, blend=0.0), models[0])
    assert equals(merge(rotate, models, strength=1.0, blend=1.0), models[1], 2e-6)


@settings(max_examples=12)
@given(st.integers(5, 12), st.integers(2, 5), st.integers(0, 1000), st.floats(0, 1))
def test_turning_keeps_the_singular_values_of_close_models(out, into, seed, strength):
    first = normal(out, into, seed=seed)
    models = [first, first + 0.1 * normal(out, into, seed=seed + 1)]
    result = merge(rotate, models, strength=strength, blend=0.0, centre=False)
    assert equals(spectrum(result), spectrum(first), 1e-5)
    # no other turn is nearer to the second
    if strength == 1.0:
        other = first @ orthonormal(into, into, seed + 2).float()
        assert (result - models[1]).norm() <= (other - models[1]).norm()


def test_hard_cases():
    first, zero = normal(12, 16, seed=1), torch.zeros(12, 16)
    assert equals(merge(rotate, [first, zero], centre=False), 0.5 * first)
    assert equals(merge(rotate, [zero, first], centre=False), 0.5 * first)
    low = [of_rank(2, 12, 16, seed).dense() for seed in (3, 5)]
    out = merge(rotate, low, centre=False, blend=0.0)
    assert equals(spectrum(out), spectrum(low[0]), 1e-5)
    tiny = merge(rotate, [first, first + 1e-6 * normal(12, 16, seed=2)]) - first
    assert 1e-8 < tiny.abs().max() < 1e-5


def test_low_rank_factors_are_no_models():
    with pytest.raises(
        RecipeError, match=r"rotate takes no low-rank factors\n.*it works on models, not on task vectors"
    ):
        rotate([of_rank(1, 4, 4, 0), of_rank(1, 4, 4, 2)])


def test_in_a_recipe():
    models = {"a": MODELS[0], "b": MODELS[1]}
    assert preset(rotate, "sd-mecha") == {"strength": 1.0, "blend": 0.0}
    out = mergery.merge({"models": models, "merge": {"method": "rotate", "preset": "sd-mecha"}})
    assert isinstance(out, dict)
    assert equals(out[LINEAR], merge(rotate, [MODELS[0][LINEAR], MODELS[1][LINEAR]], strength=1.0, blend=0.0))
    assert equals(out[EMBED], mean(EMBED))
    assert equals(out[NORM], mean(NORM))
    assert BASE.keys() == out.keys()
