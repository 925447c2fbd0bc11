import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.nearswap import nearswap

from .merging import equals, merge, normal, suite


@suite(nearswap, settings={"t": 0.05}, scale_free=False, fixed_point={"t": 10.0})
def test_conformance(check):
    check()


def test_by_hand():
    # t = 2: differences 1 and 2 are swapped; -4 and 5 move by 2; equal parameters stay
    assert equals(merge(nearswap, [[1, 2, -4, 5, 0]], [0, 0, 0, 0, 0], t=2.0), [1, 2, -2, 2, 0])
    # the weight of the published formula: w = 2 / 5, 2/5 * 5 + 3/5 * 0
    assert equals(merge(nearswap, [[5.0]], [0.0], t=2.0), [2 / 5 * 5])


@settings(max_examples=30)
@given(st.floats(0, 3), st.integers(0, 1000))
def test_no_parameter_moves_further_than_t(t, seed):
    base, model = normal(50, seed=seed), normal(50, seed=seed + 1)
    out = merge(nearswap, [model], base, t=t)
    assert bool(((out - base).abs() <= t + 1e-6).all())
    near = (model - base).abs() <= t
    assert torch.equal(out[near], model[near])


def test_zero_is_the_base():
    base, model = normal(5, seed=1), normal(5, seed=2)
    assert torch.equal(merge(nearswap, [model], base, t=0.0), base)


def test_t_is_a_distance():
    with pytest.raises(RecipeError, match="t is -1"):
        merge(nearswap, [[1.0]], [0.0], t=-1.0)
    with pytest.raises(RecipeError, match="nearswap needs 't'"):
        merge(nearswap, [[1.0]], [0.0])
