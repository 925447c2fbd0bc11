import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.methods.dc_merge import dc_merge
from mergery.methods.iso_cts import iso_cts
from mergery.methods.tsv_merge import tsv_merge

from .hard_cases import consensus, hard_cases
from .matrices import apart, diagonal, of_rank, truncated
from .merging import equals, factors, merge, normal, suite
from .small_models import EMBED, LINEAR, NORM, by_recipe, mean, of_models


@suite(tsv_merge, settings={"scale": 1.0}, mirrored=True)
def test_conformance(check):
    check()


@suite(tsv_merge, settings={"polarise": True})
def test_conformance_polarised(check):
    check()


def test_conformance_with_the_papers_scale():
    consensus(tsv_merge, scale=1.0, weight=0.7)


@hard_cases(tsv_merge)
def test_hard_cases(case):
    case()


def test_each_task_keeps_its_share():
    # two tasks share two directions, so that each keeps its first
    out = merge(tsv_merge, [diagonal(3, 1), diagonal(1, 2)], torch.zeros(2, 2), scale=1.0)
    assert equals(out, diagonal(3, 2))


def test_what_stands_out_counts_for_more_where_polarised():
    # lengths 3 and 1, mean 2: times 9/4 and 1/4; columns 27/4 and 1/4, mean 7/2: times (27/14)^2 and (1/14)^2
    deltas = [torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])]
    out = merge(tsv_merge, deltas, torch.zeros(2, 2), scale=1.0, polarise=True)
    assert equals(out, diagonal(27 / 4 * (27 / 14) ** 2, 1 / 4 * (1 / 14) ** 2))


def test_polarisation_changes_nothing_where_nothing_stands_out():
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    turned = torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    plain, polar = (merge(tsv_merge, [signs, turned], torch.zeros(2, 2), polarise=each) for each in (False, True))
    assert equals(polar, plain)


def test_polarised_factors_are_their_products():
    deltas = factors(8, 10)
    whole = [delta.dense() for delta in deltas]
    out = tsv_merge(deltas, polarise=True)
    assert equals(out, merge(tsv_merge, whole, torch.zeros(8, 10), polarise=True), 1e-5)


def test_directions_are_moved_apart_alike():
    # (1, 0) and (1, 1) / sqrt(2) lie 45 degrees apart: each is moved by 22.5 degrees, away from the other
    angle = math.radians(22.5)
    first = torch.tensor([math.cos(angle), -math.sin(angle)], dtype=torch.float64)
    second = torch.tensor([math.sin(angle), math.cos(angle)], dtype=torch.float64)
    models = [2 * torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.full((2, 2), 0.5)]
    out = merge(tsv_merge, models, torch.zeros(2, 2), scale=1.0)
    assert equals(out, 2 * torch.outer(first, first) + torch.outer(second, second))


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 1000), st.sampled_from([1.0, 1e-6]))
def test_orthogonal_tasks_are_summed(k, rank, seed, size):
    deltas = [delta * size for delta in apart(k, rank, k * rank + seed % 4, k * rank + seed % 3, seed)]
    zero = torch.zeros_like(deltas[0])
    weight = [1.0 + task for task in range(k)]
    assert equals(merge(tsv_merge, deltas, zero, scale=1.0), sum(deltas), 2e-6)
    expected = sum(w * delta for w, delta in zip(weight, deltas, strict=True))
    assert equals(merge(tsv_merge, deltas, zero, scale=1.0, weight=weight), expected, 2e-6)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_one_model_comes_back(out, into, seed):
    delta = normal(out, into, seed=seed)
    assert equals(merge(tsv_merge, [delta], torch.zeros(out, into)), delta)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_identical_models_come_back_as_one(k):
    """As much of it as one task keeps."""
    delta, zero = normal(12, 15), torch.zeros(12, 15)
    assert equals(merge(tsv_merge, [delta] * k, zero, scale=1.0), truncated(delta, 12 // k))
    small = of_rank(2, 12, 15, 3).dense()
    assert equals(merge(tsv_merge, [small] * k, zero, scale=1.0), small, 2e-6)


def test_a_task_that_changed_nothing_takes_only_its_share():
    delta, zero = normal(12, 15), torch.zeros(12, 15)
    assert equals(merge(tsv_merge, [delta, zero, zero], zero, scale=1.0), truncated(delta, 4))


def test_the_scale_and_where_it_works():
    paper, usual = by_recipe(tsv_merge, preset="paper"), by_recipe(tsv_merge)
    assert equals(paper[LINEAR], of_models(tsv_merge, LINEAR, scale=1.0))
    assert equals(usual[LINEAR], of_models(tsv_merge, LINEAR, scale="auto"))
    assert equals(paper[EMBED], of_models(tsv_merge, EMBED, scale=1.0))
    assert equals(usual[EMBED], mean(EMBED))
    assert equals(paper[NORM], mean(NORM)) and equals(usual[NORM], mean(NORM))


@pytest.mark.parametrize("method", [tsv_merge, iso_cts, dc_merge])
def test_polar_factors_in_float32_change_little(method):
    deltas, zero = [normal(600, 640, seed=seed) for seed in range(3)], torch.zeros(600, 640)
    fast, exact = (merge(method, deltas, zero, precision=each) for each in ("fast", "exact"))
    assert not torch.equal(fast, exact)
    assert equals(fast, exact, 1e-5)
