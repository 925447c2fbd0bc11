import numpy as np
import pytest
from hypothesis import given, settings

from mergery.errors import RecipeError
from mergery.kernels.spectral import Factored
from mergery.methods.actmat import actmat
from mergery.methods.wudi import wudi
from mergery.testing.reference import quadratic

from .merging import equals, factors, hard_cases, merge, normal, preset, suite, task_vectors


@suite(actmat, fixed_point={})
def test_conformance(check):
    check()


def test_by_hand():
    # one input: (1 * 1 + 9 * 3) / (1 + 9), and with weights 9 and 1 (9 * 1 + 9 * 3) / (9 + 9)
    assert equals(merge(actmat, [[[1.0]], [[3.0]]], [[0.0]]), [[2.8]])
    assert equals(merge(actmat, [[[1.0]], [[3.0]]], [[0.0]], weight=[9, 1], scale=0.5), [[1.0]])
    # task vectors that share no input: each gets its own columns
    a, b = [[2, 0, 0], [1, 0, 0]], [[0, 3, 0], [0, -1, 0]]
    assert equals(merge(actmat, [a, b], np.zeros((2, 3))), [[2, 3, 0], [1, -1, 0]])


@settings(max_examples=30)
@given(task_vectors())
def test_of_equal_norms_it_is_wudi_in_closed_form(deltas):
    zero = np.zeros(deltas[0].shape)
    units = [delta / delta.norm() for delta in deltas]
    assert equals(merge(actmat, units, zero), merge(wudi, units, zero, solver="closed"), 1e-5)
    # and weights undo the difference where they are not
    shares = [1.0 / float(delta.double().square().sum()) for delta in deltas]
    assert equals(merge(actmat, deltas, zero, weight=shares), merge(wudi, deltas, zero, solver="closed"), 1e-5)


@settings(max_examples=30)
@given(task_vectors())
def test_its_loss_has_no_slope(deltas):
    wide = [delta.double().numpy() for delta in deltas]
    terms = [(1.0, delta, delta) for delta in wide]
    out = merge(actmat, deltas, np.zeros(wide[0].shape)).double().numpy()
    steep = np.abs(quadratic.gradient(np.zeros_like(out), terms)).max()
    assert np.abs(quadratic.gradient(out, terms)).max() < 1e-5 * steep


def test_one_task_vector_stays():
    base, model = normal(6, 9, seed=1), normal(6, 9, seed=2)
    assert equals(merge(actmat, [model], base), model)


def test_the_paper_is_the_default():
    assert preset(actmat, "paper") == {"scale": 1.0}
    assert actmat.settings["scale"].default == "auto"


def test_settings_are_checked():
    models, base = [normal(2, 3, seed=1), normal(2, 3, seed=2)], normal(2, 3, seed=9)
    with pytest.raises(RecipeError, match="weight must not be negative"):
        merge(actmat, models, base, weight=[1, -0.5])
    with pytest.raises(RecipeError, match="weight is zero for all models"):
        merge(actmat, models, base, weight=0)


@pytest.mark.parametrize("name", hard_cases())
def test_hard_cases(name):
    deltas = hard_cases()[name]
    out = merge(actmat, deltas, np.zeros(deltas[0].shape))
    assert bool(out.isfinite().all())
    assert float(out.abs().max()) > 0.0
    wide = [delta.double().numpy() for delta in deltas]
    own = {"weight": [1.0] * len(wide), "cut": None, "precision": "exact", "scale": 1.0}
    wanted = quadratic.actmat(wide, 0.0 * wide[0], lambda i: wide[i], **own)
    assert equals(out, wanted, 1e-5)
    if name == "a zero":
        assert equals(out, merge(actmat, [deltas[0], deltas[2]], np.zeros(deltas[0].shape)))


def test_low_rank_factors():
    pairs = factors(9, 14)
    out = actmat(pairs, weight=[1, 2, 3])
    assert isinstance(out, Factored)
    assert out.rank <= sum(pair.rank for pair in pairs)
    dense = [pair.dense() for pair in pairs]
    assert equals(out.dense(), merge(actmat, dense, np.zeros((9, 14)), weight=[1, 2, 3]), 2e-6)
