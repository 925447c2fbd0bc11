import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.tsv_compress import tsv_compress

from .hard_cases import hard_cases
from .matrices import diagonal, of_rank, spectrum, truncated
from .merging import equals, merge, normal, suite
from .small_models import BASE, EMBED, LINEAR, NORM, by_recipe, of_models


@suite(tsv_compress, settings={"task": 0, "scale": 0.5}, mirrored=True)
def test_conformance(check):
    check()


@hard_cases(tsv_compress, task=0)
def test_hard_cases(case):
    case()


def test_a_share_of_the_triplets_is_served():
    models = [diagonal(4, 1, 3, 2), diagonal(1, 2, 3, 9)]
    zero = torch.zeros(4, 4)
    assert equals(merge(tsv_compress, models, zero, task=0), diagonal(4, 0, 3, 0))
    assert equals(merge(tsv_compress, models, zero, task=1), diagonal(0, 0, 3, 9))
    assert equals(merge(tsv_compress, models, zero, task=1, scale=[1.0, 0.5]), diagonal(0, 0, 1.5, 4.5))


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_nothing_of_that_rank_is_nearer(k, out, into, seed):
    """What is lost are the singular values that are left out."""
    deltas = [normal(out, into, seed=seed + task) for task in range(k)]
    kept = max(1, min(out, into) // k)
    for task, delta in enumerate(deltas):
        served = merge(tsv_compress, deltas, torch.zeros(out, into), task=task)
        assert equals(served, truncated(delta, kept), 2e-6)
        lost = float((delta - served).double().norm())
        assert lost == pytest.approx(float(spectrum(delta)[kept:].norm()), rel=1e-4, abs=1e-5)


def test_low_ranks_and_one_model_are_served_as_they_are():
    small = [of_rank(2, 10, 8, seed).dense() for seed in (0, 10, 20)]
    zero = torch.zeros(10, 8)
    assert all(equals(merge(tsv_compress, small, zero, task=task), small[task], 2e-6) for task in range(3))
    assert equals(merge(tsv_compress, [normal(10, 8)], zero, task=0), normal(10, 8))
    assert torch.equal(merge(tsv_compress, [zero, small[0]], zero, task=0), zero)


def test_it_needs_a_task():
    with pytest.raises(RecipeError, match="no task is named") as error:
        merge(tsv_compress, [diagonal(1, 2)], torch.zeros(2, 2))
    assert "mergery pack" in str(error.value.hint)


def test_where_it_works():
    served = by_recipe(tsv_compress, task="b")
    assert equals(served[LINEAR], of_models(tsv_compress, LINEAR, task=1))
    assert torch.equal(served[EMBED], BASE[EMBED]) and torch.equal(served[NORM], BASE[NORM])
