"""Coefficients from lengths and cosines, and the geometric median."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.balanced import balanced
from mergery.methods.geometric_median import geometric_median
from mergery.methods.metagpt import metagpt

from .merging import equals, merge, normal, suite


@pytest.mark.parametrize("scope", ["model", "tensor"])
def test_conformance_of_metagpt(scope):
    for check in suite(metagpt, settings={"scope": scope}, fixed_point={}).args[1]:
        check()


@pytest.mark.parametrize("by", ["norm", "cosine"])
def test_conformance_of_balanced(by):
    for check in suite(balanced, settings={"by": by}, fixed_point={}).args[1]:
        check()


@pytest.mark.parametrize("scope", ["tensor", "row", "model"])
def test_conformance_of_the_median(scope):
    for check in suite(geometric_median, settings={"scope": scope}, fixed_point={}).args[1]:
        check()


def test_by_hand():
    # squared lengths 9 and 16
    out = merge(metagpt, [[3.0, 0], [0.0, 4]], [0.0, 0])
    assert equals(out, [3 * 9 / 25, 4 * 16 / 25])
    # the shares 1/3 and 1/4 of 7/12: each adds 12/7 along its own axis
    assert equals(merge(balanced, [[3.0, 0], [0.0, 4]], [0.0, 0]), [12 / 7, 12 / 7])
    # at right angles the sum of the directions, as long as the vectors are on average
    assert equals(merge(balanced, [[3.0, 0], [0.0, 4]], [0.0, 0], by="cosine"), [3.5, 3.5])


def test_the_cosine_balance_between_average_and_sum():
    delta = normal(20, seed=1)
    zero = torch.zeros(20)
    assert equals(merge(balanced, [delta, delta, delta], zero, by="cosine"), delta)
    assert equals(merge(balanced, [delta, -delta], zero, by="cosine"), zero, 1.0)


@settings(max_examples=30)
@given(st.integers(0, 1000))
def test_equal_angles(seed):
    deltas = [normal(60, seed=seed + i) * (i + 1) for i in range(3)]
    out = merge(balanced, deltas, torch.zeros(60), by="cosine").double()
    parts = [float(out @ delta.double() / delta.double().norm()) for delta in deltas]
    assert parts == pytest.approx([parts[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("method", [metagpt, balanced])
def test_a_model_that_never_moved_has_no_part(method):
    base, model = normal(7, seed=1), normal(7, seed=2)
    assert equals(merge(method, [model, base], base), model)
    assert torch.equal(merge(method, [base, base], base), base)


def test_twenty_models_of_tiny_changes():
    zero = torch.zeros(40)
    deltas = [normal(40, seed=seed) * 1e-6 for seed in range(20)]
    for method, more in ((metagpt, {}), (balanced, {}), (balanced, {"by": "cosine"}), (geometric_median, {})):
        out = merge(method, deltas, zero, **more)
        assert bool(out.isfinite().all()) and float(out.abs().max()) > 1e-8


def test_the_median_of_numbers():
    # in one dimension it is the median itself, exactly, however far the last one went
    assert torch.equal(merge(geometric_median, [[1.0], [2.0], [1e6]]), torch.tensor([2.0]))
    assert equals(merge(geometric_median, [[0.0], [10.0]]), [5.0])
    assert torch.equal(merge(geometric_median, [[0.0], [10.0]], weight=[1.0, 1.5]), torch.tensor([10.0]))


def test_the_median_of_a_square_and_its_centre():
    corners = [[0.0, 0], [0.0, 2], [2.0, 0], [2.0, 2]]
    assert equals(merge(geometric_median, corners), [1, 1], 1e-6)
    assert equals(merge(geometric_median, [*corners, [1.0, 1]]), [1, 1])


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(3, 7))
def test_no_point_nearby_is_better(seed, count):
    models = [normal(5, seed=seed + i) for i in range(count)]
    out = merge(geometric_median, models).double()

    def cost(point):
        return float(sum((point - model.double()).norm() for model in models))

    for other in range(8):
        step = normal(5, seed=other).double() * 1e-3
        assert cost(out) <= cost(out + step) + 1e-6


def test_one_astray_does_not_carry_the_median_away():
    close = [normal(30, seed=seed) * 0.01 for seed in range(4)]
    astray = normal(30, seed=9) * 1000
    assert float(merge(geometric_median, [*close, astray]).norm()) < 0.1


def test_weights_of_distances_are_not_negative():
    with pytest.raises(RecipeError, match="not be negative"):
        merge(geometric_median, [[1.0], [2.0]], weight=[1.0, -1.0])
    with pytest.raises(RecipeError, match="not be negative"):
        merge(geometric_median, [[1.0], [2.0]], max_iter=-1)
