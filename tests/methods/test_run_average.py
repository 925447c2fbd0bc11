import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods._decay import coefficients, decay, multipliers
from mergery.methods.run_average import run_average

from .merging import equals, merge, normal, suite


@pytest.mark.parametrize("by", ["simple", "weighted", "exponential", "cosine", "sqrt"])
def test_conformance(by):
    for check in suite(run_average, settings={"by": by}, fixed_point={}).args[1]:
        check()


@suite(run_average, settings={"by": "sqrt", "last": 2}, fixed_point={})
def test_conformance_of_a_window(check):
    check()


def test_by_hand():
    run = [[1.0], [2.0], [4.0], [8.0]]
    assert equals(merge(run_average, run), [15 / 4])
    assert equals(merge(run_average, run, by="weighted"), [(1 + 4 + 12 + 32) / 10])
    assert equals(merge(run_average, run, by="exponential", alpha=0.5), [1 / 8 + 2 / 8 + 4 / 4 + 8 / 2])
    assert equals(merge(run_average, run, last=2), [6.0])
    # updates 1, 2 and 4, times 1 - sqrt(1/4), 1 - sqrt(2/4) and 1 - sqrt(3/4)
    expected = 1 + 0.5 * 1 + (1 - 0.5**0.5) * 2 + (1 - 0.75**0.5) * 4
    assert equals(merge(run_average, run, by="sqrt"), [expected])


def test_the_newest_alone():
    run = [normal(5, seed=seed) for seed in range(3)]
    assert equals(merge(run_average, run, by="exponential", alpha=1.0), run[-1])
    assert equals(merge(run_average, run, last=1), run[-1])
    assert equals(merge(run_average, run, last=9), merge(run_average, run))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).map(lambda values: sorted(values, reverse=True)))
def test_decays_and_merges_are_one_another(falling):
    merged = coefficients(np.array(falling))
    assert merged.sum() == pytest.approx(1.0, abs=1e-12)
    assert (merged >= 0.0).all()
    assert np.allclose(multipliers(merged), falling, rtol=0, atol=1e-12)


def test_a_uniform_mean_is_a_linear_decay():
    assert np.allclose(multipliers(np.full(5, 0.2)), [0.8, 0.6, 0.4, 0.2], atol=1e-12)
    assert np.allclose(decay("cosine", np.array([0.5])), [0.5])


def test_a_window_has_a_checkpoint():
    with pytest.raises(RecipeError, match="last is 0"):
        merge(run_average, [[1.0], [2.0]], last=0)
