import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.slerp import slerp

from .merging import equals, merge, normal, suite


@suite(slerp, fixed_point={})
def test_conformance(check):
    check()


@pytest.mark.parametrize("scope", ["row", "column"])
def test_conformance_by_vector(scope):
    for check in suite(slerp, settings={"scope": scope}, fixed_point={}).args[1]:
        check()


def test_by_hand():
    # a right angle: sin(60) = 0.866025 of (4, 0) and sin(30) = 1/2 of (0, 2)
    assert equals(merge(slerp, [[4, 0], [0, 2]], t=1 / 3), [3.4641016, 1])
    # equal weights are t = 1/2: sin(45) / sin(90) of each
    assert equals(merge(slerp, [[4, 0], [0, 2]]), [4 * math.sqrt(0.5), 2 * math.sqrt(0.5)])


def test_ends_are_the_models():
    models = [normal(5, 6, seed=1), normal(5, 6, seed=2)]
    assert equals(merge(slerp, models, t=0.0), models[0])
    assert equals(merge(slerp, models, t=1.0), models[1])


@settings(max_examples=40)
@given(st.floats(-1, 2), st.integers(0, 1000))
def test_lengths_stay_on_the_sphere(t, seed):
    models = [normal(12, seed=seed), normal(12, seed=seed + 1)]
    models = [model / model.norm() for model in models]
    assert abs(float(merge(slerp, models, t=t).norm()) - 1.0) < 1e-5


@settings(max_examples=60)
@given(st.floats(1e-12, 3.1), st.floats(0, 1))
def test_shares_are_exact_at_any_angle(angle, t):
    gram = np.array([[1.0, math.cos(angle)], [math.cos(angle), 1.0]])
    got = slerp.function(gram, t=t, weight=np.ones(2), scope="tensor", lerp_above=1.0)
    turn = math.acos(math.cos(angle)) or 1e-9
    assert np.allclose(got, [math.sin((1 - t) * turn) / math.sin(turn), math.sin(t * turn) / math.sin(turn)])


def test_small_angles_are_the_linear_average_to_second_order():
    # at 0.001 rad and t = 1/4 the shares exceed 3/4 and 1/4 by the factors 1 + angle^2 (1 - s^2) / 6
    angle = 1e-3
    gram = np.array([[1.0, math.cos(angle)], [math.cos(angle), 1.0]])
    got = slerp.function(gram, t=0.25, weight=np.ones(2), scope="tensor", lerp_above=1.0)
    expected = [s * (1 + angle**2 * (1 - s**2) / 6) for s in (0.75, 0.25)]
    assert np.allclose(got, expected, rtol=1e-9, atol=0)


def test_without_an_arc_it_is_linear():
    assert equals(merge(slerp, [[2, 0], [-6, 0]], t=0.25), [0, 0])
    assert equals(merge(slerp, [[2, 0], [0, 0]], t=0.25), [1.5, 0])
    assert equals(merge(slerp, [[0, 0], [0, 0]], t=0.25), [0, 0])


def test_lerp_above():
    close = [[1, 0], [1, 0.01]]  # cosine 0.99995
    assert equals(merge(slerp, close, t=0.5, lerp_above=0.9995), [1, 0.005], 1e-7)
    assert not equals(merge(slerp, close, t=0.5), [1, 0.005], 1e-6)


def test_several_models_are_folded_from_the_left():
    a, b, c = (normal(9, seed=seed) for seed in range(3))
    two = merge(slerp, [a, b], t=2 / 5)  # weights 3 and 2
    assert equals(merge(slerp, [a, b, c], weight=[3, 2, 5]), merge(slerp, [two, c], t=0.5), 1e-5)
    assert equals(merge(slerp, [a, b, c], weight=[0, 0, 5]), c)


def test_rows_and_columns():
    a, b = normal(3, 4, seed=1), normal(3, 4, seed=2)
    rows = [merge(slerp, [a[i], b[i]], t=0.3).tolist() for i in range(3)]
    assert equals(merge(slerp, [a, b], t=0.3, scope="row"), rows)
    columns = merge(slerp, [a.T, b.T], t=0.3, scope="row").T
    assert equals(merge(slerp, [a, b], t=0.3, scope="column"), columns)


def test_t_is_for_two_models():
    with pytest.raises(RecipeError, match=r"t is 0.5, but there are 3 models"):
        merge(slerp, [[1.0], [2.0], [3.0]], t=0.5)


@suite(slerp, settings={"tree": "balanced"}, fixed_point={})
def test_conformance_along_a_balanced_tree(check):
    check()


def test_a_balanced_tree_is_pairs_of_pairs():
    models = [normal(4, 6, seed=seed) for seed in range(5)]
    weight = [1.0, 3.0, 2.0, 2.0, 4.0]
    left = merge(slerp, models[:2], weight=weight[:2])
    right = merge(slerp, models[2:4], weight=weight[2:4])
    four = merge(slerp, [left, right], weight=[4.0, 4.0])
    assert equals(merge(slerp, models[:4], weight=weight[:4], tree="balanced"), four, 1e-5)
    five = merge(slerp, [four, models[4]], weight=[8.0, 4.0])
    assert equals(merge(slerp, models, weight=weight, tree="balanced"), five, 1e-5)
    assert not equals(merge(slerp, models, weight=weight), five, 1e-3)
