import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.kernels.spectral import Factored
from mergery.methods.ace import ace, unequal
from mergery.testing.reference import quadratic

from .merging import equals, factors, hard_cases, merge, normal, preset, suite, task_vectors


@suite(ace, settings={"mode": "equal"})
def test_conformance(check):
    check()


@suite(ace, settings={"mode": "unequal"}, scale_free=False)
def test_conformance_of_unequal_tasks(check):
    check()


@suite(ace, settings={"ridge_of": "one"}, scale_free=False)
def test_conformance_with_an_absolute_ridge(check):
    check()


def centred(*shape, seed):
    """Rows and columns that sum to zero."""
    x = normal(*shape, seed=seed).double()
    x = x - x.mean(0)
    return (x - x.mean(1, keepdim=True)).float()


def test_by_hand():
    # one task, two inputs, ridge 1: columns (1, -1) and (3, -3); S = 2 [[1, 3], [3, 9]], of 20; c = (4, 12)
    # aim: d (S + I) = [[1, 3], [-1, -3]] * 21;  S + I + 1 c = [[7, 18], [10, 31]], of determinant 37
    # (21, 63) times the inverse: (21 * 31 - 63 * 10, -21 * 18 + 63 * 7) / 37
    out = merge(ace, [[[1.0, 3.0], [-1.0, -3.0]]], np.zeros((2, 2)), ridge=1.0, ridge_of="one", scale=1.0)
    row = [(21 * 31 - 63 * 10) / 37, (63 * 7 - 21 * 18) / 37]
    assert equals(out, [row, [-row[0], -row[1]]])
    # the mean over outputs, here (10, 20), has no part in it where tasks are equal
    out = merge(ace, [[[11.0, 23.0], [9.0, 17.0]]], np.zeros((2, 2)), ridge=1.0, ridge_of="one", scale=1.0)
    assert equals(out, [row, [-row[0], -row[1]]])


def test_one_task_vector_stays_where_it_has_no_means():
    # c is zero where the inputs of every output sum to zero: then (d S') S'^-1 = d
    model = centred(6, 9, seed=2)
    assert equals(merge(ace, [model], np.zeros((6, 9))), model)
    assert not equals(merge(ace, [model + 1.0], np.zeros((6, 9))), model + 1.0, 0.1)


@settings(max_examples=30)
@given(task_vectors(), st.sampled_from(["equal", "unequal"]), st.sampled_from(["mean", "one"]))
def test_against_the_reference(deltas, mode, ridge_of):
    wide = [delta.double().numpy() for delta in deltas]
    full = {setting.name: setting.default for setting in ace.settings.values()} | {"mode": mode, "ridge_of": ridge_of}
    wanted = quadratic.ace(wide, 0.0 * wide[0], lambda i: wide[i], **full | {"weight": [1.0] * len(wide)})
    if wide[0].shape[0] > 1:
        assert equals(merge(ace, deltas, 0.0 * wide[0], mode=mode, ridge_of=ridge_of), wanted, 1e-4)


def test_when_tasks_are_unequal():
    e = np.e
    assert not bool(unequal(torch.tensor([e, e**2, e**3]), "auto"))  # variance 1 of logarithms, mean 2: 1 < 0.3 * 4
    assert bool(unequal(torch.tensor([e, e**2, e**5]), "auto"))  # variance 13 / 3, mean 8 / 3: 4.33 > 2.13
    assert not bool(unequal(torch.tensor([e, 0.0, 0.0]), "auto"))  # one alone, or none, is not unequal
    assert not bool(unequal(torch.zeros(3), "auto"))
    assert bool(unequal(torch.tensor([e, e]), "unequal"))
    assert not bool(unequal(torch.tensor([e, e**9]), "equal"))
    both = torch.tensor([[e, e], [e**2, e**2], [e**3, e**5]])
    assert unequal(both, "auto").tolist() == [False, True]


def test_auto_is_one_of_the_two():
    alike = [normal(6, 8, seed=seed) for seed in range(3)]
    apart = [alike[0] * 0.2, alike[1], alike[2] * 10.0]
    zero = np.zeros((6, 8))
    for deltas, mode in ((alike, "equal"), (apart, "unequal")):
        assert equals(merge(ace, deltas, zero), merge(ace, deltas, zero, mode=mode), 0.0)
        other = {"equal": "unequal", "unequal": "equal"}[mode]
        assert not equals(merge(ace, deltas, zero), merge(ace, deltas, zero, mode=other), 1e-3)


def test_unequal_tasks_add_a_flat_part_of_the_leading_directions():
    deltas = [normal(8, 10, seed=seed) * size for seed, size in enumerate((0.2, 1.0, 10.0))]
    zero = np.zeros((8, 10))
    plain = merge(ace, deltas, zero, mode="unequal", leading=0.0).double()
    added = merge(ace, deltas, zero, mode="unequal", leading=0.3).double() - plain
    s = torch.linalg.svdvals(added)
    assert equals(s[:2], [float(s[0])] * 2)  # floor(0.3 * 8)
    assert float(s[2]) < 1e-5 * float(s[0])


def test_the_residual_takes_task_vectors_with_their_means():
    # means over outputs leave no trace where tasks are equal, but do in the residual of unequal ones
    deltas = [normal(8, 10, seed=seed) * size for seed, size in enumerate((0.2, 1.0, 10.0))]
    moved = [delta + normal(1, 10, seed=9) for delta in deltas]
    zero = np.zeros((8, 10))
    assert equals(merge(ace, moved, zero, mode="equal"), merge(ace, deltas, zero, mode="equal"), 1e-5)
    assert not equals(merge(ace, moved, zero, mode="unequal"), merge(ace, deltas, zero, mode="unequal"), 1e-2)


def test_a_ridge_that_scales():
    deltas = [normal(6, 8, seed=seed) for seed in range(3)]
    zero = np.zeros((6, 8))
    plain = merge(ace, deltas, zero, mode="equal").double()
    small = [1e-6 * delta for delta in deltas]
    assert equals(merge(ace, small, zero, mode="equal"), plain * 1e-6)
    # published: under an absolute ridge small task vectors are averaged, each less its mean over outputs
    out = merge(ace, small, zero, mode="equal", **preset(ace, "paper"))
    assert equals(out, sum(delta.double() - delta.double().mean(0) for delta in small) / 3, 1e-5)
    # a great ridge makes averages of any
    out = merge(ace, deltas, zero, mode="equal", ridge=1e9)
    assert equals(out, sum(delta.double() - delta.double().mean(0) for delta in deltas) / 3)


def test_the_paper_takes_an_absolute_ridge():
    assert preset(ace, "paper") == {"ridge_of": "one", "scale": 1.0}
    defaults = {name: ace.settings[name].default for name in ("mode", "ridge", "leading", "scale")}
    assert defaults == {"mode": "auto", "ridge": 0.01, "leading": 0.3, "scale": "auto"}


def test_settings_are_checked():
    models, base = [normal(2, 3, seed=1), normal(2, 3, seed=2)], normal(2, 3, seed=9)
    with pytest.raises(RecipeError, match="weight must not be negative"):
        merge(ace, models, base, weight=[1, -0.5])
    with pytest.raises(RecipeError, match="weight is zero for all models"):
        merge(ace, models, base, weight=0.0)
    for ridge in (0.0, -0.01):
        with pytest.raises(RecipeError, match="ridge must be positive"):
            merge(ace, models, base, ridge=ridge)


@pytest.mark.parametrize("name", hard_cases())
@pytest.mark.parametrize("mode", ["auto", "unequal"])
def test_hard_cases(name, mode):
    deltas = hard_cases()[name]
    out = merge(ace, deltas, np.zeros(deltas[0].shape), mode=mode)
    assert bool(out.isfinite().all())
    assert float(out.abs().max()) > 0.0
    wide = [delta.double().numpy() for delta in deltas]
    full = {setting.name: setting.default for setting in ace.settings.values()} | {"mode": mode}
    wanted = quadratic.ace(wide, 0.0 * wide[0], lambda i: wide[i], **full | {"weight": [1.0] * len(wide)})
    assert equals(out, wanted, 2e-5)


def test_outputs_that_all_change_alike_leave_the_base():
    base = normal(5, 8, seed=9)
    alike = [normal(1, 8, seed=seed).expand(5, 8) for seed in (1, 2)]
    for mode in ("equal", "unequal"):
        out = merge(ace, [base + delta for delta in alike], base, mode=mode, leading=0.0)
        assert equals(out, base, 1e-5)


def test_an_unequal_task_whose_outputs_change_alike_has_no_say():
    # c is zero, as the inputs of every output sum to zero: nothing else could tell of the third task
    deltas = [centred(6, 8, seed=1), centred(6, 8, seed=2)]
    alike = normal(1, 8, seed=3).expand(6, 8)
    zero = np.zeros((6, 8))
    out = merge(ace, [*deltas, alike], zero, mode="unequal", ridge_of="one", leading=0.0)
    assert equals(out, merge(ace, deltas, zero, mode="unequal", ridge_of="one", leading=0.0), 1e-5)


def test_what_rounding_leaves_of_centred_factors_is_no_input():
    pairs = [*factors(9, 14), Factored(torch.full((9, 1), 0.7), normal(1, 14, seed=8))]
    own = {"mode": "unequal", "ridge_of": "one"}
    dense = [pair.dense() for pair in pairs]
    assert equals(ace(pairs, **own).dense(), merge(ace, dense, np.zeros((9, 14)), **own), 1e-5)


@pytest.mark.parametrize("own", [{}, {"mode": "unequal"}, {"ridge_of": "one"}])
def test_low_rank_factors(own):
    pairs = factors(9, 14)
    out = ace(pairs, **own)
    assert isinstance(out, Factored)
    assert out.rank <= sum(pair.rank for pair in pairs) + 1
    assert equals(out.dense(), merge(ace, [pair.dense() for pair in pairs], np.zeros((9, 14)), **own), 1e-5)
