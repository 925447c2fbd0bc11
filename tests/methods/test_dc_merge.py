import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.dc_merge import dc_merge
from mergery.methods.tsv_merge import tsv_merge

from .hard_cases import consensus, hard_cases
from .matrices import apart, diagonal, rank, spectrum, truncated
from .merging import equals, merge, normal, suite
from .small_models import EMBED, LINEAR, NORM, by_recipe, mean, of_models

CASES = [
    {"density": 0.3, "blocks": False}, {"density": 1.0, "smooth": "linear", "weight": 0.6},
    {"smooth": "mean"}, {"smooth": "linear", "ratio": 1.0, "scale": 2.0},
]  # fmt: skip


@suite(dc_merge, settings={"scale": 1.0}, mirrored=True)
def test_conformance(check):
    check()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conformance_of_other_settings(case):
    consensus(dc_merge, **case)


@hard_cases(dc_merge)
def test_hard_cases(case):
    case()


@hard_cases(dc_merge, density=1.0, smooth="mean", blocks=False)
def test_hard_cases_of_adapters(case):
    case()


def test_by_hand():
    # each keeps its first direction; they are at right angles, so that no entry is both tasks'
    models, zero = [diagonal(3, 1), diagonal(1, 2)], torch.zeros(2, 2)
    assert equals(merge(dc_merge, models, zero, scale=1.0), diagonal(3, 2))
    # it answers to (3, 1) by 11 / 10 and to (1, 2) by 7 / 5 of themselves
    answer = (11 / 10 + 7 / 5) / 2
    # of inputs (3, 1) and (1, 2) they make (9, 1) and (1, 4), and it (9, 2) and (3, 4)
    least = ((81 + 2) / 82 + (3 + 16) / 17) / ((81 + 4) / 82 + (9 + 16) / 17)
    assert equals(merge(dc_merge, models, zero), diagonal(3, 2) * (least / answer) ** 0.5)
    assert equals(merge(dc_merge, models, zero, scale=1.0, weight=[2.0, 5.0]), diagonal(3, 2))  # each alone: its mean


def test_two_directions_that_overlap_by_hand():
    # (1, 0) and (1, 1) / sqrt(2): moved apart they lie 22.5 degrees off, with cosines c and s of their own
    models = [2 * torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.full((2, 2), 0.5)]
    c, s = math.cos(math.radians(22.5)), math.sin(math.radians(22.5))
    basis = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    first, second = torch.tensor([c, s], dtype=torch.float64), torch.tensor([s, c], dtype=torch.float64)
    inside = (2 * torch.outer(first, first) + torch.outer(second, second)) / 2  # all are positive: their mean
    zero = torch.zeros(2, 2)
    out = merge(dc_merge, models, zero, density=1.0, scale=1.0, blocks=False)
    assert equals(out, basis @ inside @ basis.mT)
    out = merge(dc_merge, models, zero, density=1.0, scale=1.0)
    assert equals(out, basis @ inside.diag().diag() @ basis.mT)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 1000), st.sampled_from([1.0, 1e-6]))
def test_orthogonal_tasks_are_summed(k, own, blocks, seed, size):
    deltas = [delta * size for delta in apart(k, own, k * own + seed % 4, k * own + seed % 3, seed)]
    zero = torch.zeros_like(deltas[0])
    out = merge(dc_merge, deltas, zero, density=1.0, blocks=blocks, scale=1.0)
    assert equals(out, sum(deltas), 2e-6)
    assert equals(out, merge(tsv_merge, deltas, zero, scale=1.0), 2e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_identical_models(k):
    """They come back as one where entries between tasks stay; without those only their share does."""
    delta, zero = normal(12, 15), torch.zeros(12, 15)
    out = merge(dc_merge, [delta] * k, zero, density=1.0, blocks=False, scale=1.0)
    assert equals(out, truncated(delta, 12 // k), 2e-6)
    assert equals(merge(dc_merge, [delta] * k, zero, density=1.0, scale=1.0), out / k, 2e-6)


@settings(max_examples=25)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(1.0, 9.0), st.integers(0, 1000))
def test_smoothed_spectra_keep_their_sum(out, into, ratio, seed):
    delta, zero = normal(out, into, seed=seed), torch.zeros(out, into)
    whole = spectrum(delta)
    own = {"density": 1.0, "ratio": ratio, "scale": 1.0}
    assert equals(merge(dc_merge, [delta], zero, **own), delta, 2e-6)
    flat = spectrum(merge(dc_merge, [delta], zero, smooth="mean", **own))
    assert torch.allclose(flat, whole.mean().expand_as(flat), rtol=1e-4)
    line = spectrum(merge(dc_merge, [delta], zero, smooth="linear", **own))
    assert torch.allclose(line.sum(), whole.sum(), rtol=1e-5)
    if len(line) > 1:
        assert float(line[0] / line[-1]) == pytest.approx(ratio, rel=1e-4)
        assert torch.allclose(line.diff(), line.diff().mean(), atol=1e-5 * float(line[0]))


def test_the_density_counts_entries_of_the_basis():
    """Of 8 x 8 coordinates 1 / 64 is one: the first singular triplet."""
    delta, zero = normal(8, 8), torch.zeros(8, 8)
    assert equals(merge(dc_merge, [delta], zero, density=1 / 64, scale=1.0), truncated(delta, 1), 2e-6)
    assert equals(merge(dc_merge, [delta], zero, density=3 / 64, scale=1.0), truncated(delta, 3), 2e-6)
    assert torch.equal(merge(dc_merge, [delta], zero, density=0.0), zero)
    assert rank(merge(dc_merge, [delta], zero, smooth="mean")) == 8  # all are alike: none is left out by rounding


def test_a_ratio_below_one():
    with pytest.raises(RecipeError, match="ratio must be at least 1"):
        merge(dc_merge, [diagonal(1, 2)], torch.zeros(2, 2), ratio=0.5)


def test_the_presets():
    paper, usual, adapters = (
        by_recipe(dc_merge, preset="paper"),
        by_recipe(dc_merge),
        by_recipe(dc_merge, preset="adapters"),
    )
    assert equals(usual[LINEAR], of_models(dc_merge, LINEAR, scale="auto", density=0.001))
    assert equals(paper[LINEAR], of_models(dc_merge, LINEAR, scale=1.0, density=0.001))
    assert equals(adapters[LINEAR], of_models(dc_merge, LINEAR, scale=1.0, density=1.0, smooth="mean"))
    assert equals(paper[EMBED], of_models(dc_merge, EMBED, scale=1.0))
    assert equals(usual[EMBED], mean(EMBED)) and equals(adapters[EMBED], mean(EMBED))
    assert equals(paper[NORM], mean(NORM))
