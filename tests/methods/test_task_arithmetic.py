import pytest

from mergery.errors import RecipeError
from mergery.methods.task_arithmetic import task_arithmetic

from .merging import equals, merge, normal, suite


@suite(task_arithmetic, fixed_point={"normalize": True}, settings={"scale": 1.0})
def test_conformance(check):
    check()


def test_by_hand():
    # task vectors (2, 0) and (0, 4); half their sum is (1, 2); on the base (1, 1) that gives (2, 3)
    assert equals(merge(task_arithmetic, [[3, 1], [1, 5]], [1, 1], scale=0.5), [2, 3])
    # weights 1 and -1: (1 + 2, 1 - 4)
    assert equals(merge(task_arithmetic, [[3, 1], [1, 5]], [1, 1], weight=[1, -1]), [3, -3])
    # weights 1 and 3, normalized: (1 + 2 / 4, 1 + 12 / 4)
    assert equals(merge(task_arithmetic, [[3, 1], [1, 5]], [1, 1], weight=[1, 3], normalize=True), [1.5, 4])


def test_one_over_t_is_the_mean_and_one_model_comes_back():
    models = [normal(8, seed=seed) for seed in range(4)]
    base = normal(8, seed=9)
    assert equals(merge(task_arithmetic, models, base, scale=0.25), sum(m.double() for m in models) / 4)
    assert equals(merge(task_arithmetic, models[:1], base), models[0])


def test_adding_and_negating_returns_to_the_base():
    base, model = normal(8, seed=1), normal(8, seed=2)
    moved = merge(task_arithmetic, [model], base, scale=0.5)
    back = merge(task_arithmetic, [moved], base, scale=-1.0)
    assert equals((moved + back) / 2, base)


def test_an_analogy_of_equals_adds_the_third():
    base, a, c = (normal(8, seed=seed) for seed in range(3))
    assert equals(merge(task_arithmetic, [c, a, a], base, weight=[1, 1, -1], scale=0.3), base + 0.3 * (c - base))


def test_weights_that_sum_to_zero_cannot_be_normalized():
    with pytest.raises(RecipeError, match="the weights sum to zero"):
        merge(task_arithmetic, [[1.0], [2.0]], [0.0], weight=[1, -1], normalize=True)
