import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.methods.iso_c import iso_c
from mergery.methods.iso_cts import iso_cts
from mergery.testing.reference import spectral

from .hard_cases import consensus, hard_cases
from .matrices import apart, diagonal, of_rank, rank, spectrum
from .merging import equals, merge, normal, suite
from .small_models import BASE, EMBED, LINEAR, NORM, by_recipe, mean, of_models


@suite(iso_c, settings={"scale": 1.0}, mirrored=True)
def test_conformance_of_iso_c(check):
    check()


@suite(iso_cts)
def test_conformance_of_iso_cts(check):
    check()


def test_conformance_with_few_common_directions():
    consensus(iso_cts, common=0.3, scale=1.5, weight=0.5)


@hard_cases(iso_c)
def test_hard_cases_of_iso_c(case):
    case()


@hard_cases(iso_cts)
def test_hard_cases_of_iso_cts(case):
    case()


# --- iso_c --------------------------------------------------------------------------------------------------------


def test_iso_c_by_hand():
    zero = torch.zeros(2, 2)
    assert equals(merge(iso_c, [diagonal(3, -1)], zero, scale=1.0), diagonal(2, -2))  # one model does not come back
    out = merge(iso_c, [diagonal(3, 1), diagonal(3, 1)], zero, weight=[1.0, -0.5], scale=2.0)
    assert equals(out, diagonal(2, 2))  # of the sum (1.5, 0.5)
    # at (3.5, 3.5) the answers to (3, 1) and (0, 3) are 14 / 10 and 10.5 / 9 of themselves
    answer = (14 / 10 + 10.5 / 9) / 2
    # of inputs (3, 1) and (0, 3) they make (9, 1) and (0, 9), and it (10.5, 3.5) and (0, 10.5)
    least = ((94.5 + 3.5) / 82 + 94.5 / 81) / ((10.5**2 + 3.5**2) / 82 + 10.5**2 / 81)
    wanted = diagonal(3.5, 3.5) * (least / answer) ** 0.5
    assert equals(merge(iso_c, [diagonal(3, 1), diagonal(0, 3)], zero), wanted)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14), st.integers(1, 4), st.integers(0, 999))
def test_the_spectrum_is_flat_and_its_sum_stays(k, out, into, own, seed):
    deltas = [of_rank(own, out, into, seed + 10 * task).dense() for task in range(k)]
    whole = spectrum(sum(deltas))
    count = int((whole > 1e-3 * whole[0]).sum())
    if (whole[count:] > 1e-6 * whole[0]).any():
        return  # float32 rounding of the products adds ranks of its own
    s = spectrum(merge(iso_c, deltas, torch.zeros(out, into), scale=1.0))
    assert torch.allclose(s[:count], whole.sum() / count, rtol=1e-5)
    assert (s[count:] <= 1e-6 * s[0]).all()


def test_models_that_cancel_leave_the_base():
    delta, base = normal(9, 7), torch.zeros(9, 7)
    for method in (iso_c, iso_cts):
        assert float(merge(method, [delta, -delta], base).abs().max()) < 1e-6
    assert torch.equal(merge(iso_c, [delta, -delta], base), base)


# --- iso_cts ------------------------------------------------------------------------------------------------------


def test_iso_cts_by_hand():
    # two directions are common, of size 4 each; of what is left each task has one of size 1; 10 / 4 for all
    out = merge(iso_cts, [diagonal(4, 0, 1, 0), diagonal(0, 4, 0, 1)], torch.zeros(4, 4), common=0.5, scale=1.0)
    assert equals(out, diagonal(2.5, 2.5, 2.5, 2.5))


def test_what_only_one_task_knows_takes_the_place_of_what_is_weak_in_the_sum():
    # in the sum (8, 2, 0.5) the third direction is the first task's; the second, in which they differ, is common
    models = [diagonal(4, 2, 0.5), diagonal(4, 0, 0)]
    zero = torch.zeros(3, 3)
    assert equals(merge(iso_c, models, zero, scale=1.0), diagonal(3.5, 3.5, 3.5))
    # one is common, and each adds its own: the first (0, 2, 0), the second nothing
    assert equals(merge(iso_cts, models, zero, common=0.5, scale=1.0), diagonal(5, 5, 0))


@pytest.mark.parametrize("k", [1, 3, 20])
def test_with_all_directions_common_it_is_iso_c(k):
    deltas = [normal(12, 15, seed=seed) for seed in range(k)]
    zero = torch.zeros(12, 15)
    assert equals(merge(iso_cts, deltas, zero, common=1.0), merge(iso_c, deltas, zero), 2e-6)


@settings(max_examples=25)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(0, 1000))
def test_orthogonal_tasks_without_common_directions_all_take_part_alike(k, own, seed):
    """Nothing is lost: all directions have one size, the mean of all singular values."""
    side = k * own
    deltas = apart(k, own, side, side, seed)
    s = spectrum(merge(iso_cts, deltas, torch.zeros(side, side), common=0.0, scale=1.0))
    level = sum(spectrum(delta)[:own].sum() for delta in deltas) / side
    assert torch.allclose(s, level, rtol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16), (12, 20), (20, 12), (3, 10, 10)])
def test_what_a_task_has_left_is_found_alike_on_either_side(shape):
    own = {"weight": [1.0, 0.5, -0.7], "common": 0.6, "scale": 1.0, "precision": "exact"}
    deltas, zero = [normal(*shape, seed=seed) for seed in range(3)], torch.zeros(shape)
    wanted = spectral.iso_cts(
        [d.double().numpy() for d in deltas], zero.double().numpy(), lambda i: zero.numpy(), **own
    )
    assert equals(merge(iso_cts, deltas, zero, **own), wanted, 1e-5)


@pytest.mark.parametrize("weight", [[1.0, 1.0, 1.0], [1.0, 0.5, -0.7]])
def test_on_tall_matrices_float32_changes_little(weight):
    """Of matrices of a language model's kind, half of which is common, and whose singular values fall like a root."""
    fall = torch.arange(1, 521) ** -0.5
    make = [normal(900, 520, seed=2 * task) * fall @ normal(520, 520, seed=2 * task + 1) for task in range(4)]
    deltas, zero = [make[0] + own for own in make[1:]], torch.zeros(900, 520)
    fast, exact = (merge(iso_cts, deltas, zero, weight=weight, precision=precision) for precision in ("fast", "exact"))
    assert not torch.equal(fast, exact)
    assert equals(fast, exact, 1e-5)


def test_low_ranks_stay_low():
    deltas = [of_rank(1, 20, 20, seed).dense() for seed in (0, 10)]
    for common in (0.0, 0.5, 0.8, 1.0):
        assert rank(merge(iso_cts, deltas, torch.zeros(20, 20), common=common)) == 2


# --- where they work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "scale"), [(iso_c, 1.3), (iso_cts, 1.5)], ids=["iso_c", "iso_cts"])
def test_the_scale_and_where_they_work(method, scale):
    paper, usual = by_recipe(method, preset="paper"), by_recipe(method)
    assert equals(usual[LINEAR], of_models(method, LINEAR, scale="auto"))
    assert equals(paper[LINEAR], of_models(method, LINEAR, scale=scale))
    assert equals(paper[EMBED], of_models(method, EMBED, scale=scale))
    assert equals(usual[EMBED], mean(EMBED)) and equals(usual[NORM], mean(NORM))
    assert equals(paper[NORM], BASE[NORM] + scale * (mean(NORM) - BASE[NORM]))
