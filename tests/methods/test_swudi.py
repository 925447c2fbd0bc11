import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.kernels.spectral import Factored
from mergery.methods.swudi import leading, swudi, taking_part
from mergery.methods.wudi import wudi
from mergery.testing.reference import quadratic

from .merging import equals, factors, hard_cases, merge, normal, preset, suite, task_vectors


@suite(swudi, tolerance=4e-6)
def test_conformance(check):
    check()


@suite(swudi, settings={"start": "sum", "rank": 1.0, "time": 1300.0})
def test_conformance_from_the_sum(check):
    check()


def test_by_hand():
    # one input, 1 and 3 and 7: C = 1 + 1 + 1, the minimum is their mean 11 / 3, the start their sum 11
    models, zero = [[[1.0]], [[3.0]], [[7.0]]], [[0.0]]
    out = merge(swudi, models, zero, start="sum", rank=1.0, time=0.5)
    assert equals(out, [[11 / 3 + (11 - 11 / 3) * math.exp(-1.5)]])
    # of 2 inputs the leading one: weights 4 and 1 make the first lead; the other stays at the sum
    a, b = [[2.0, 0.0], [1.0, 0.0]], [[0.0, 4.0], [0.0, 2.0]]
    out = merge(swudi, [a, a, b], np.zeros((2, 2)), start="sum", rank=0.5, time=1e6)
    assert equals(out, [[2, 4], [1, 2]])
    out = merge(swudi, [a, a, b], np.zeros((2, 2)), start="sum", rank=0.0)
    assert equals(out, [[4, 4], [2, 2]])


@settings(max_examples=30)
@given(task_vectors(), st.sampled_from(["sum", "mean"]))
def test_no_time_and_no_rank_leave_the_start(deltas, start):
    zero = np.zeros(deltas[0].shape)
    wanted = sum(delta.double() for delta in deltas) / (1 if start == "sum" else len(deltas))
    assert equals(merge(swudi, deltas, zero, start=start, time=0.0, scale=1.0), wanted)
    assert equals(merge(swudi, deltas, zero, start=start, rank=0.0, scale=1.0), wanted)


@settings(max_examples=30)
@given(task_vectors(), st.sampled_from(["sum", "mean"]))
def test_after_all_time_it_is_the_minimum_on_all_inputs(deltas, start):
    # on what no task has, the minimum is zero and so is any sum of task vectors
    zero = np.zeros(deltas[0].shape)
    out = merge(swudi, deltas, zero, start=start, rank=1.0, time=1e300)
    assert equals(out, merge(wudi, deltas, zero, solver="closed", cut=0.0))


@settings(max_examples=10)
@given(task_vectors(), st.floats(0.0, 5.0))
def test_it_is_gradient_flow(deltas, time):
    # dD/dt = -half the slope of WUDI's loss, in small steps of Euler
    wide = [delta.double().numpy() for delta in deltas]
    terms = quadratic.own_rows(wide, [1.0] * len(wide))
    point, steps = sum(wide), 1000
    for _ in range(steps):
        point = point - time / steps / 2.0 * quadratic.gradient(point, terms)
    out = merge(swudi, deltas, np.zeros(wide[0].shape), start="sum", rank=1.0, time=time, scale=1.0)
    assert equals(out, point, 0.02)


@settings(max_examples=20)
@given(task_vectors())
def test_the_loss_falls_with_time(deltas):
    wide = [delta.double().numpy() for delta in deltas]
    terms = quadratic.own_rows(wide, [1.0] * len(wide))
    flow = {"start": "sum", "rank": 1.0, "scale": 1.0}  # `auto` is another for adapters, at each time its own
    outs = [merge(swudi, deltas, np.zeros(wide[0].shape), time=time, **flow) for time in (0, 0.3, 3, 300)]
    losses = [quadratic.loss(out.double().numpy(), terms) for out in outs]
    room = 1e-6 * (losses[0] + 1e-6)
    assert losses[0] + room >= losses[1] >= losses[2] - room >= losses[3] - 2 * room


def test_it_does_not_depend_on_the_size_of_task_vectors():
    deltas = [normal(5, 7, seed=seed) for seed in range(3)]
    zero = np.zeros((5, 7))
    plain = merge(swudi, deltas, zero, time=2.0)
    assert equals(merge(swudi, [delta * 1e-6 for delta in deltas], zero, time=2.0), plain.double() * 1e-6)


def test_one_task_vector_stays():
    base, model = normal(6, 9, seed=1), normal(6, 9, seed=2)
    assert equals(merge(swudi, [model], base), model)


def test_the_paper_begins_at_the_sum():
    models, base = [normal(4, 6, seed=1), normal(4, 6, seed=2)], normal(4, 6, seed=9)
    assert preset(swudi, "paper") == {"start": "sum", "scale": 1.0}
    assert equals(merge(swudi, models, base, **preset(swudi, "paper"), time=0.0), sum(models) - base)
    defaults = {name: swudi.settings[name].default for name in ("time", "rank", "scale")}
    assert defaults == {"time": 300.0, "rank": 0.85, "scale": "auto"}


def test_the_number_that_takes_part_is_rounded_up():
    assert [taking_part(rank, into) for rank, into in ((0.85, 10), (0.85, 100), (0.65, 4096), (0.0, 8), (1.0, 8))] == [
        9, 85, 2663, 0, 8,
    ]  # fmt: skip


def test_the_leading_eigenvalues():
    values = torch.tensor([[3.0, 2.0, 1.0], [5.0, 4.0, 0.0]])
    assert leading(values, 2).tolist() == [[1, 1, 0], [1, 1, 0]]
    assert leading(values, torch.tensor([1, 3])).tolist() == [[1, 0, 0], [1, 1, 1]]


def test_settings_are_checked():
    models, base = [normal(2, 3, seed=1), normal(2, 3, seed=2)], normal(2, 3, seed=9)
    with pytest.raises(RecipeError, match="weight must not be negative"):
        merge(swudi, models, base, weight=[1, -0.5])
    with pytest.raises(RecipeError, match="weight is zero for all models"):
        merge(swudi, models, base, weight=[0, 0])
    with pytest.raises(RecipeError, match="time must not be negative"):
        merge(swudi, models, base, time=-1.0)
    with pytest.raises(RecipeError, match="rank"):
        merge(swudi, models, base, rank=1.5)


@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("own", [{"rank": 1.0}, {"rank": 1.0, "start": "sum"}])
def test_hard_cases(name, own):
    deltas = hard_cases()[name]
    out = merge(swudi, deltas, np.zeros(deltas[0].shape), **own)
    assert bool(out.isfinite().all())
    assert float(out.abs().max()) > 0.0
    wide = [delta.double().numpy() for delta in deltas]
    full = {setting.name: setting.default for setting in swudi.settings.values()} | own
    wanted = quadratic.swudi(wide, 0.0 * wide[0], lambda i: wide[i], **full | {"weight": [1.0] * len(wide)})
    assert equals(out, wanted, 1e-5)


def test_duplicates_come_back_on_the_inputs_that_take_part():
    compiled = normal(4, 9, seed=1)
    assert equals(merge(swudi, [compiled, compiled], np.zeros((4, 9))), compiled)
    assert equals(merge(swudi, [compiled, compiled], np.zeros((4, 9)), start="sum", time=1e6), compiled)


@pytest.mark.parametrize("own", [{}, {"start": "sum", "rank": 0.3, "time": 2.0}])
def test_low_rank_factors(own):
    pairs = factors(9, 14)
    out = swudi(pairs, **own)
    assert isinstance(out, Factored)
    assert out.rank <= sum(pair.rank for pair in pairs)
    assert equals(out.dense(), merge(swudi, [pair.dense() for pair in pairs], np.zeros((9, 14)), **own), 2e-6)
