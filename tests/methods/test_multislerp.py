import math

import pytest

from mergery.errors import RecipeError
from mergery.methods.karcher import karcher
from mergery.methods.multislerp import multislerp
from mergery.methods.slerp import slerp

from .merging import equals, merge, normal, suite


@suite(multislerp, fixed_point={})
def test_conformance(check):
    check()


@pytest.mark.parametrize("scope", ["row", "column"])
def test_conformance_by_vector(scope):
    for check in suite(multislerp, settings={"scope": scope}, fixed_point={}).args[1]:
        check()


@suite(multislerp, settings={"tangent": "projection", "normalize": False, "weight": 0.5})
def test_conformance_of_projection(check):
    check()


def test_by_hand():
    # directions at 0 and 90 degrees, weights 2 and 1: 30 degrees; lengths 3 and 6: (2 * 3 + 6) / 3 = 4
    out = merge(multislerp, [[3, 0], [0, 6]], weight=[2, 1])
    assert equals(out, [4 * math.cos(math.pi / 6), 4 * math.sin(math.pi / 6)])
    # the projected tangents cancel: the direction of (2, 1) / sqrt(5), same length
    out = merge(multislerp, [[3, 0], [0, 6]], weight=[2, 1], tangent="projection")
    assert equals(out, [8 / math.sqrt(5), 4 / math.sqrt(5)])


def test_of_two_models_it_is_slerp_with_interpolated_length():
    a, b = normal(20, seed=1), normal(20, seed=2)
    direction = merge(slerp, [a / a.norm(), b / b.norm()], t=0.2)
    assert equals(merge(multislerp, [a, b], weight=[4, 1]), direction * (0.8 * a.norm() + 0.2 * b.norm()))


def test_it_is_one_step_of_karcher():
    models = [normal(20, seed=seed) for seed in range(4)]
    assert equals(merge(multislerp, models), merge(karcher, models, max_iter=1, tol=0.0))


def test_plain_weights_scale_the_result():
    models = [normal(20, seed=seed) for seed in range(3)]
    plain = merge(multislerp, models, weight=[1, 2, 3], normalize=False)
    assert equals(plain, 6 * merge(multislerp, models, weight=[1, 2, 3]))


def test_on_task_vectors():
    base, models = normal(20, seed=9), [normal(20, seed=seed) for seed in range(3)]
    alone = merge(multislerp, [model - base for model in models])
    assert equals(merge(multislerp, models, base), base + alone)


def test_directions_that_cancel_are_averaged():
    assert equals(merge(multislerp, [[2, 0], [-4, 0]], weight=[1, 1]), [-1, 0])


def test_a_zero_vector_counts_with_its_length_only():
    assert equals(merge(multislerp, [[3, 4], [0, 0]]), [1.5, 2])


@pytest.mark.parametrize("normalize", [True, False])
def test_weights_must_sum_to_a_positive_number(normalize):
    with pytest.raises(RecipeError, match="do not sum to a positive number"):
        merge(multislerp, [[1.0, 0.0], [0.0, 1.0]], weight=[1, -1], normalize=normalize)
