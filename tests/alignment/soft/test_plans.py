"""Costs of units and plans of transport, on cases small enough to be done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mergery.alignment.matching.activations import Moments
from mergery.alignment.soft.plans import Distances, map_of, transport_plan
from mergery.errors import MergeryError
from mergery.views.transforms import SoftMap, Units


def test_a_cost_is_a_distance_and_its_largest_is_one():
    made = Distances(2, 3, signs=False)
    made.add(np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[0.0, 4.0], [3.0, 0.0], [0.0, 1.0]]), signed=True)
    wanted = np.array([[5.0, 0.0, np.sqrt(10.0)], [3.0, np.sqrt(10.0), 0.0]]) / 5.0
    assert np.allclose(made.cost, wanted)


def test_a_negative_is_the_same_unit_where_signs_are_not_seen():
    made = Distances(2, 2, signs=True)
    made.add(np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[-3.0, 1.0], [1.0, 2.0]]), signed=True)
    found = map_of(made.plan(0.0))
    assert isinstance(found, Units)
    assert found.order.tolist() == [1, 0]
    assert found.signs is not None
    assert found.signs.tolist() == [1.0, -1.0]


def test_one_unit_of_the_reference_is_two_of_a_wider_model():
    cost = np.array([[0.0, 0.1, 1.0, 0.9], [1.0, 0.8, 0.0, 0.2]])
    plan = transport_plan(cost, 0.0)
    assert np.array_equal(plan, np.array([[0.25, 0.25, 0.0, 0.0], [0.0, 0.0, 0.25, 0.25]]))
    soft = map_of(plan)
    assert isinstance(soft, SoftMap)
    assert np.array_equal(soft.writing(signed=True), [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]])  # an average
    assert np.array_equal(
        soft.reading(signed=True), [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    )  # each comes from one
    assert soft.spread == pytest.approx(2.0)


def test_units_that_do_not_come_out_even_are_shared():
    """Two units in three thirds of a half each: the middle one of the model belongs to both."""
    plan = transport_plan(np.array([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]]), 0.0)
    assert np.allclose(plan, np.array([[2, 1, 0], [0, 1, 2]]) / 6)


@pytest.mark.parametrize("shape", [(6, 6), (6, 9)])
def test_a_plan_is_exact_as_epsilon_goes_to_nothing_and_uniform_as_it_grows(shape):
    cost = np.random.default_rng(0).uniform(size=shape)
    exact = transport_plan(cost, 0.0)
    assert (cost * exact).sum() == pytest.approx((cost * transport_plan(cost, 0.003)).sum(), abs=2e-3)
    assert np.allclose(transport_plan(cost, 1e3), 1.0 / cost.size, rtol=2e-3)
    for plan in (exact, transport_plan(cost, 0.08)):
        assert np.allclose(plan.sum(1), 1 / shape[0])
        assert np.allclose(plan.sum(0), 1 / shape[1], atol=1e-6)


def test_what_a_unit_says_counts_and_not_how_loudly():
    draw = np.random.default_rng(1)
    says = draw.normal(2.0, 1.0, (200, 3)).astype(np.float32)
    import torch

    moments = Moments.empty(3)
    moments.add(torch.from_numpy(says), torch.from_numpy(says[:, [2, 0, 1]] * np.array([0.1, 5.0, 1.0], np.float32)))
    made = Distances(3, 3, signs=False)
    made.add_activations(moments)
    found = map_of(made.plan(0.0))
    assert isinstance(found, Units)
    assert found.order.tolist() == [1, 2, 0]


def test_units_that_agree_stay_also_under_a_soft_plan():
    draw = np.random.default_rng(2)
    one = draw.normal(size=(5, 20))
    made = Distances(5, 5, signs=True)
    made.add(one, one + 0.1 * draw.normal(size=one.shape), signed=True)
    found = map_of(made.plan(0.5))
    assert isinstance(found, Units)
    assert found.is_identity


def test_an_exact_plan_of_too_many_pieces_is_refused():
    with pytest.raises(MergeryError, match="an exact plan is too large"):
        transport_plan(np.zeros((101, 103)), 0.0)
