import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.karcher import karcher
from mergery.testing.reference.sphere import logarithm

from .merging import equals, merge, normal, suite


@suite(karcher, fixed_point={})
def test_conformance(check):
    check()


@pytest.mark.parametrize("scope", ["row", "column"])
def test_conformance_by_vector(scope):
    for check in suite(karcher, settings={"scope": scope}, fixed_point={}).args[1]:
        check()


def test_by_hand():
    # three axes of lengths 1, 2 and 3: their mean direction is (1, 1, 1) / sqrt(3), their mean length 2
    assert equals(merge(karcher, [[1, 0, 0], [0, 2, 0], [0, 0, 3]]), [2 / 3**0.5] * 3)
    # two directions 90 degrees apart, weights 2 and 1: 30 degrees, length (2 * 3 + 3) / 3
    out = merge(karcher, [[3, 0], [0, 3]], weight=[2, 1])
    assert equals(out, [3 * np.cos(np.pi / 6), 3 * np.sin(np.pi / 6)])


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(2, 6))
def test_the_mean_is_where_the_logarithms_cancel(seed, k):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((k, 40)) + 1.0
    gram = vectors @ vectors.T
    weight = random.uniform(0.1, 1.0, k)
    share = karcher.function(gram, weight=weight, max_iter=100, tol=1e-7, scope="tensor")
    mean = share @ vectors
    sizes = np.linalg.norm(vectors, axis=1)
    assert np.isclose(np.linalg.norm(mean), (weight * sizes).sum() / weight.sum())
    mean /= np.linalg.norm(mean)
    step = sum(w * logarithm(mean, v / size) for w, v, size in zip(weight, vectors, sizes, strict=True))
    assert np.linalg.norm(step) / weight.sum() < 1e-6


def test_without_steps_it_is_the_normalized_mean():
    a, b = [3.0, 0.0], [0.0, 1.0]
    assert equals(merge(karcher, [a, b], weight=[2, 1], max_iter=0), np.array([2, 1]) / 5**0.5 * 7 / 3)


def test_zero_vectors_and_opposite_vectors():
    assert equals(merge(karcher, [[3, 4], [0, 0]]), [1.5, 2])
    assert equals(merge(karcher, [[2, 0], [-4, 0]]), [-1, 0])
    assert equals(merge(karcher, [[0, 0], [0, 0]]), [0, 0])


def test_settings_are_checked():
    models = [normal(3, seed=1), normal(3, seed=2)]
    with pytest.raises(RecipeError, match="max_iter and tol must not be negative"):
        merge(karcher, models, max_iter=-1)
    with pytest.raises(RecipeError, match="do not sum to a positive number"):
        merge(karcher, models, weight=[1, -1])
