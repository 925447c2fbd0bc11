import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.kernels.spectral import Factored
from mergery.methods.wudi import wudi
from mergery.testing.reference import quadratic

from .merging import equals, factors, hard_cases, merge, normal, preset, suite, task_vectors

CLOSED = {"solver": "closed"}


@suite(wudi, settings={"steps": 25}, scale_free=False, tolerance=1e-5)
def test_conformance(check):
    # with one input the mean is the minimum: there the reference's Adam follows its own rounding
    check()


@suite(wudi, settings={"steps": 25, "start": "sum", "rate": 1e-3}, scale_free=False, tolerance=1e-5, close=1e-5)
def test_conformance_of_long_steps_from_the_sum(check):
    check()


@suite(wudi, settings=CLOSED, fixed_point={})
def test_conformance_of_the_closed_form(check):
    check()


def test_by_hand():
    # task 1 knows the first input only, task 2 the second only: each gets its own column, the third nobody's
    a, b = [[2, 0, 0], [1, 0, 0]], [[0, 3, 0], [0, -1, 0]]
    assert equals(merge(wudi, [a, b], np.zeros((2, 3)), solver="closed"), [[2, 3, 0], [1, -1, 0]])
    # one input, task vectors 1 and 3, of norm one in the loss: the mean; weighed 3 to 1: (3 * 1 + 1 * 3) / 4
    assert equals(merge(wudi, [[[1.0]], [[3.0]]], [[0.0]], solver="closed"), [[2]])
    assert equals(merge(wudi, [[[1.0]], [[3.0]]], [[0.0]], solver="closed", weight=[3, 1]), [[1.5]])
    # one step of Adam is the rate, whatever the slope: from the sum 4 towards 2, from the mean not at all
    assert equals(merge(wudi, [[[1.0]], [[3.0]]], [[0.0]], start="sum", steps=1, rate=0.25), [[3.75]])
    assert equals(merge(wudi, [[[1.0]], [[3.0]]], [[0.0]], steps=300), [[2]])


def test_the_published_descent_against_adam_in_float64():
    models, base = [normal(12, 20, seed=seed) for seed in range(3)], normal(12, 20, seed=9)
    given = {
        "start": "sum",
        "steps": 300,
        "rate": 1e-5,
        "cut": None,
        "precision": "exact",
        "scale": 1.0,
        "solver": "adam",
    }
    out = merge(wudi, models, base, **given)
    wide = [model.double().numpy() for model in models]
    wanted = quadratic.wudi(wide, base.double().numpy(), lambda i: wide[i], weight=[1.0] * 3, **given)
    assert equals(out, wanted, 1e-6)
    assert 1e-3 < float((out - (sum(models) - 2 * base)).abs().max()) < 300 * 1e-5 + 1e-5


def test_the_paper_begins_at_the_sum_and_leaves_the_rest_alone():
    models, base = [normal(4, 6, seed=1), normal(4, 6, seed=2)], normal(4, 6, seed=9)
    assert wudi.presets["paper"].rest == "base"
    assert preset(wudi, "paper") == {"start": "sum", "solver": "adam", "scale": 1.0}
    assert equals(merge(wudi, models, base, **preset(wudi, "paper"), steps=0), sum(models) - base)
    defaults = {name: wudi.settings[name].default for name in ("steps", "rate", "scale")}
    assert defaults == {"steps": 300, "rate": 1e-5, "scale": "auto"}


@settings(max_examples=15)
@given(task_vectors(), st.sampled_from(["sum", "mean"]))
def test_descent_goes_down_and_never_below_the_minimum(deltas, start):
    wide = [delta.double().numpy() for delta in deltas]
    terms = quadratic.own_rows(wide, [1.0] * len(wide))
    base = np.zeros(deltas[0].shape)
    losses = [
        quadratic.loss(merge(wudi, deltas, base, start=start, steps=steps, rate=1e-3).double().numpy(), terms)
        for steps in (0, 5, 20, 60)
    ]
    least = quadratic.loss(merge(wudi, deltas, base, solver="closed").double().numpy(), terms)
    room = 1e-9 + 1e-2 * losses[0]  # Adam swings about the minimum
    assert all(after <= before + room for before, after in itertools.pairwise(losses))
    assert least <= losses[-1] + room


def test_adam_arrives_at_the_closed_form():
    # tall task vectors: every input is somebody's, so that the minimum is one point
    deltas = [normal(30, 4, seed=seed) for seed in range(3)]
    zero = np.zeros((30, 4))
    closed = merge(wudi, deltas, zero, solver="closed")
    far = float((merge(wudi, deltas, zero, start="sum", steps=0) - closed).abs().max())
    near = float((merge(wudi, deltas, zero, start="sum", steps=3000, rate=3e-3) - closed).abs().max())
    assert near < 0.01 * far


@pytest.mark.parametrize("start", ["sum", "mean"])
def test_one_task_vector_stays(start):
    base, model = normal(6, 9, seed=1), normal(6, 9, seed=2)
    for own in ({"solver": "adam"}, CLOSED):
        assert equals(merge(wudi, [model], base, start=start, **own), model)


def test_task_vectors_that_share_no_input_add_up():
    # the sum has a slope of zero, in which Adam must not find any direction
    left, right = normal(5, 8, seed=1), normal(5, 8, seed=2)
    left[:, 4:], right[:, :4] = 0.0, 0.0
    turned = np.linalg.qr(normal(8, 8, seed=3).double().numpy())[0]
    deltas = [(left.double().numpy() @ turned), (right.double().numpy() @ turned)]
    for own in ({"start": "sum"}, CLOSED):
        out = merge(wudi, deltas, np.zeros((5, 8)), **own)
        assert equals(out, deltas[0] + deltas[1], 5e-6)


def test_a_weight_of_zero_leaves_a_task_out_of_the_loss():
    deltas = [normal(4, 6, seed=seed) for seed in range(3)]
    zero = np.zeros((4, 6))
    out = merge(wudi, deltas, zero, solver="closed", weight=[1, 2, 0])
    assert equals(out, merge(wudi, deltas[:2], zero, solver="closed", weight=[1, 2]))


def test_settings_are_checked():
    models, base = [normal(2, 3, seed=1), normal(2, 3, seed=2)], normal(2, 3, seed=9)
    with pytest.raises(RecipeError, match="weight must not be negative"):
        merge(wudi, models, base, weight=[1, -0.5])
    with pytest.raises(RecipeError, match="weight is zero for all models"):
        merge(wudi, models, base, weight=0.0)
    for own in ({"steps": -1}, {"rate": -1e-5}):
        with pytest.raises(RecipeError, match="steps and rate must not be negative"):
            merge(wudi, models, base, **own)
    with pytest.raises(RecipeError, match="solver"):
        merge(wudi, models, base, solver="newton")


@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("given", [CLOSED, {"start": "sum"}])
def test_hard_cases(name, given):
    deltas = hard_cases()[name]
    out = merge(wudi, deltas, np.zeros(deltas[0].shape), **given)
    assert bool(out.isfinite().all())
    assert float(out.abs().max()) > 0.0
    wide = [delta.double().numpy() for delta in deltas]
    full = {setting.name: setting.default for setting in wudi.settings.values()} | given
    wanted = quadratic.wudi(wide, 0.0 * wide[0], lambda i: wide[i], **full | {"weight": [1.0] * len(wide)})
    assert equals(out, wanted, 1e-5)


def test_duplicates_come_back_on_their_own_inputs_from_the_minimum_alone():
    compiled = normal(4, 9, seed=1)
    zero = np.zeros((4, 9))
    assert equals(merge(wudi, [compiled, compiled, compiled], zero, solver="closed"), compiled)
    assert equals(merge(wudi, [compiled, compiled, compiled], zero), compiled)
    # published: from the sum, 300 steps of 1e-5 go a very small part of the way
    assert equals(merge(wudi, [compiled, compiled, compiled], zero, start="sum"), 3 * compiled, 2e-3)


@pytest.mark.parametrize("given", [CLOSED, {"steps": 40}, {"steps": 40, "start": "sum"}])
def test_low_rank_factors(given):
    pairs = factors(9, 14)
    dense = [pair.dense() for pair in pairs]
    out = wudi(pairs, **given)
    assert isinstance(out, Factored) == (given == CLOSED)
    whole = out.dense() if isinstance(out, Factored) else out
    assert equals(whole, merge(wudi, dense, np.zeros((9, 14)), **given), 1e-5)
    if isinstance(out, Factored):
        assert out.rank <= sum(pair.rank for pair in pairs)
