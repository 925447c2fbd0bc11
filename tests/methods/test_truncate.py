import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mergery
from mergery.errors import RecipeError
from mergery.kernels.spectral import Factored
from mergery.methods.truncate import truncate

from .matrices import diagonal, of_rank, rank, truncated
from .merging import equals, merge, normal, suite
from .small_models import BASE, LINEAR, MODELS


@suite(truncate, fixed_point={"share": 1.0}, mirrored=True)
def test_conformance(check):
    check()


@suite(truncate, settings={"rank": 2, "scale": 0.5}, mirrored=True)
def test_conformance_with_a_rank(check):
    check()


def test_by_hand():
    delta, zero = diagonal(4, 3, 2, 1), torch.zeros(4, 4)
    assert equals(merge(truncate, [delta], zero), diagonal(4, 3, 0, 0))
    assert equals(merge(truncate, [delta], zero, share=0.7), diagonal(4, 3, 2, 0))
    assert equals(merge(truncate, [delta], zero, rank=1, scale=2.0), diagonal(8, 0, 0, 0))
    assert equals(merge(truncate, [delta], zero, rank=9), delta)
    assert equals(merge(truncate, [delta + 1], zero + 1, share=0.0), zero + 1)


@settings(max_examples=12)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9), st.integers(0, 100), st.sampled_from([1.0, 1e-6]))
def test_it_is_the_nearest_matrix_of_its_rank(out, into, count, seed, size):
    delta = normal(out, into, seed=seed) * size
    result = merge(truncate, [delta], torch.zeros(out, into), rank=count)
    assert equals(result, truncated(delta, count), 2e-6)
    assert not count or rank(result) <= count


def test_hard_cases():
    zero = torch.zeros(12, 16)
    assert not merge(truncate, [zero], zero).any()
    low = of_rank(2, 12, 16, 3)
    assert equals(merge(truncate, [low.dense()], zero), low.dense(), 2e-6)
    base = normal(12, 16, seed=9)
    tiny = merge(truncate, [base + 1e-6 * normal(12, 16, seed=8)], base) - base
    assert 1e-8 < tiny.abs().max() < 1e-5


def test_factors_stay_factors():
    low = of_rank(6, 12, 16, 3)
    out = truncate([low], rank=2)
    assert isinstance(out, Factored)
    assert out.rank == 2
    assert equals(out.dense(), truncated(low.dense(), 2), 1e-5)
    # a share is one of the matrix, not of the factors
    assert equals(truncate([low], share=0.25).dense(), truncated(low.dense(), 3), 1e-5)


def test_the_rest_is_the_models_own():
    merged = mergery.merge(
        {"models": {"base": BASE, "a": MODELS[0]}, "merge": {"method": "truncate", "base": "base", "rank": 1}}
    )
    assert isinstance(merged, dict)
    assert equals(merged[LINEAR] - BASE[LINEAR], truncated(MODELS[0][LINEAR] - BASE[LINEAR], 1), 1e-5)
    assert all(torch.equal(merged[name], MODELS[0][name]) for name in BASE if name != LINEAR)


def test_a_rank_is_no_debt():
    with pytest.raises(RecipeError, match="rank must not be negative"):
        merge(truncate, [normal(2, 2)], torch.zeros(2, 2), rank=-1)
