import numpy as np
import pytest
from hypothesis import given, settings

from mergery.errors import RecipeError
from mergery.kernels.spectral import Factored
from mergery.methods.optmerge import optmerge
from mergery.methods.wudi import wudi
from mergery.testing.reference import quadratic

from .merging import equals, factors, hard_cases, merge, normal, preset, suite, task_vectors

CLOSED = {"solver": "closed"}


@suite(optmerge, settings={"steps": 20, "start": "sum"}, scale_free=False, tolerance=1e-5)
def test_conformance(check):
    check()


@suite(optmerge, settings=CLOSED)
def test_conformance_of_the_closed_form(check):
    check()


def test_by_hand():
    # rank 2 / 2 = 1. Task vectors diag(4, 1) and diag(-4, -1) around a mean of zero: targets diag(4, 0) and diag(-4, 0),
    # inputs the first alone: weighed 3 to 1, (3 * 4 - 4) / 4; the second input has no say and no value
    a, b = [[4, 0], [0, 1]], [[-4, 0], [0, -1]]
    assert equals(merge(optmerge, [a, b], np.zeros((2, 2)), solver="closed", weight=[3, 1]), [[2, 0], [0, 0]])
    # mean diag(3, 0); differences diag(1, 1/2) and its opposite keep 1 and lose 1/2; inputs are the first again, with
    # 16 / 16.25 and 4 / 4.25 of their task's norm
    a, b = [[4, 0], [0, 0.5]], [[2, 0], [0, -0.5]]
    say = [16 / 16.25, 4 / 4.25]
    wanted = (4 * say[0] + 2 * say[1]) / sum(say)
    assert equals(merge(optmerge, [a, b], np.zeros((2, 2)), solver="closed"), [[wanted, 0], [0, 0]])
    # one step of the descent, from the mean diag(0, 0): along the first input only, towards the heavier
    a, b = [[4, 0], [0, 1]], [[-4, 0], [0, -1]]
    out = merge(optmerge, [a, b], np.zeros((2, 2)), steps=1, rate=0.5, weight=[3, 1])
    assert equals(out, [[0.5, 0], [0, 0]])


@settings(max_examples=20)
@given(task_vectors(least=2))
def test_each_task_has_as_many_inputs_as_its_share_of_the_rank(deltas):
    out, into = deltas[0].shape
    kept = max(1, min(out, into) // len(deltas))
    merged = merge(optmerge, deltas, np.zeros((out, into)), solver="closed").double().numpy()
    inputs = np.concatenate([quadratic.leading(delta.double().numpy(), kept)[2] for delta in deltas])
    # the result takes no input that is not among the leading ones of any task
    outside = np.eye(into) - np.linalg.pinv(inputs, rcond=1e-6) @ inputs
    assert np.abs(merged @ outside).max() < 1e-5 * np.abs(merged).max()
    assert np.linalg.matrix_rank(merged, tol=1e-5 * np.abs(merged).max()) <= len(deltas) * kept


def test_low_rank_task_vectors_that_share_no_input_come_out_of_both_alike():
    # rank 2 of 6 for each of 3 tasks: nothing is cut but the differences to the mean, which have rank 6
    turned = np.linalg.qr(normal(6, 6, seed=3).double().numpy())[0]
    deltas = [normal(6, 2, seed=index).double().numpy() @ turned[2 * index : 2 * index + 2] for index in range(3)]
    zero = np.zeros((6, 6))
    assert equals(merge(wudi, deltas, zero, solver="closed"), sum(deltas), 1e-5)
    full = {"solver": "closed", "start": "sum", "steps": 0, "rate": 0.0, "cut": None, "scale": 1.0, "weight": [1.0] * 3}
    wide = [delta.astype(np.float32).astype(np.float64) for delta in deltas]
    wanted = quadratic.optmerge(wide, zero, lambda i: wide[i], **full)
    out = merge(optmerge, deltas, zero, solver="closed")
    assert equals(out, wanted, 1e-5)
    assert not equals(out, sum(deltas), 1e-2)


def test_the_published_descent_against_adam_in_float64():
    models, base = [normal(10, 14, seed=seed) for seed in range(3)], normal(10, 14, seed=9)
    own = {"start": "sum", "steps": 300, "rate": 1e-5, "cut": None, "scale": 1.0, "solver": "adam"}
    wide = [model.double().numpy() for model in models]
    wanted = quadratic.optmerge(wide, base.double().numpy(), lambda i: wide[i], weight=[1.0] * 3, **own)
    assert equals(merge(optmerge, models, base, **own), wanted, 1e-6)


def test_descent_goes_down():
    deltas = [normal(6, 8, seed=seed) for seed in range(2)]
    wide = [delta.double().numpy() for delta in deltas]
    mean = sum(wide) / 2
    terms = []
    for delta in wide:
        (u, s, vh), (_, size, rows) = quadratic.leading(delta - mean, 3), quadratic.leading(delta, 3)
        terms.append((1.0, mean + u * s @ vh, size[:, None] * rows / np.linalg.norm(delta)))
    zero = np.zeros((6, 8))
    outs = [merge(optmerge, deltas, zero, start="sum", rate=1e-2, steps=steps) for steps in (0, 10, 100)]
    losses = [quadratic.loss(out.double().numpy(), terms) for out in outs]
    least = quadratic.loss(merge(optmerge, deltas, zero, **CLOSED).double().numpy(), terms)
    assert losses[0] > losses[1] > losses[2] > least


@pytest.mark.parametrize("start", ["sum", "mean"])
@pytest.mark.parametrize("solver", ["adam", "closed"])
def test_one_task_vector_stays(solver, start):
    base, model = normal(6, 9, seed=1), normal(6, 9, seed=2)
    assert equals(merge(optmerge, [model], base, solver=solver, start=start), model)


def test_the_paper_begins_at_the_sum_takes_a_scale_of_one_and_averages_the_rest():
    assert preset(optmerge, "paper") == {"start": "sum", "scale": 1.0}
    assert optmerge.presets["paper"].rest is None
    assert optmerge.rest == "linear"


def test_settings_are_checked():
    models, base = [normal(2, 3, seed=1), normal(2, 3, seed=2)], normal(2, 3, seed=9)
    with pytest.raises(RecipeError, match="weight must not be negative"):
        merge(optmerge, models, base, weight=[1, -0.5])
    with pytest.raises(RecipeError, match="weight is zero for all models"):
        merge(optmerge, models, base, weight=0.0)
    for own in ({"steps": -1}, {"rate": -1e-5}):
        with pytest.raises(RecipeError, match="steps and rate must not be negative"):
            merge(optmerge, models, base, **own)


@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("own", [CLOSED, {"start": "sum", "steps": 100}])
def test_hard_cases(name, own):
    deltas = hard_cases()[name]
    out = merge(optmerge, deltas, np.zeros(deltas[0].shape), **own)
    assert bool(out.isfinite().all())
    assert float(out.abs().max()) > 0.0
    wide = [delta.double().numpy() for delta in deltas]
    full = {setting.name: setting.default for setting in optmerge.settings.values()} | own
    wanted = quadratic.optmerge(wide, 0.0 * wide[0], lambda i: wide[i], **full | {"weight": [1.0] * len(wide)})
    assert equals(out, wanted, 1e-5)


def test_duplicates_come_back_as_far_as_their_share_of_the_rank():
    compiled = normal(4, 9, seed=1)
    u, s, vh = quadratic.leading(compiled.double().numpy(), 2)
    assert equals(merge(optmerge, [compiled, compiled], np.zeros((4, 9)), **CLOSED), u * s @ vh)
    assert equals(merge(optmerge, [compiled, compiled], np.zeros((4, 9))), compiled)


@pytest.mark.parametrize("own", [CLOSED, {"steps": 40, "start": "sum"}])
def test_low_rank_factors(own):
    pairs = factors(9, 14)
    out = optmerge(pairs, **own)
    assert isinstance(out, Factored) == (own == CLOSED)
    whole = out.dense() if isinstance(out, Factored) else out
    assert equals(whole, merge(optmerge, [pair.dense() for pair in pairs], np.zeros((9, 14)), **own), 1e-5)
