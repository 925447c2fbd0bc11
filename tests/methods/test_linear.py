import pytest

from mergery.errors import RecipeError
from mergery.methods.linear import linear

from .merging import equals, merge, normal, suite


@suite(linear, fixed_point={})
def test_conformance(check):
    check()


@suite(linear, settings={"normalize": False, "weight": 0.75})
def test_conformance_of_the_plain_sum(check):
    check()


def test_by_hand():
    # (1 * 2 + 3 * 6) / 4 = 5 and (1 * 4 + 3 * 8) / 4 = 7; without the division 20 and 28
    assert equals(merge(linear, [[2, 4], [6, 8]], weight=[1, 3]), [5, 7])
    assert equals(merge(linear, [[2, 4], [6, 8]], weight=[1, 3], normalize=False), [20, 28])


def test_a_uniform_soup_is_the_mean():
    models = [normal(4, 5, seed=seed) for seed in range(6)]
    assert equals(merge(linear, models), sum(model.double() for model in models) / 6)


def test_weights_that_sum_to_zero_cannot_be_normalized():
    with pytest.raises(RecipeError, match="the weights sum to zero") as error:
        merge(linear, [[1.0], [2.0], [3.0]], weight=[0.1, 0.2, -0.3])
    assert "set normalize: false" in str(error.value)
    assert equals(merge(linear, [[1.0], [2.0]], weight=[1, -1], normalize=False), [-1.0])
