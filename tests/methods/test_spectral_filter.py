import pytest
import torch

from mergery.methods.spectral_filter import spectral_filter

from .matrices import diagonal, of_rank
from .merging import equals, merge, normal, suite


@suite(spectral_filter, settings={"rank": 0.4}, tolerance=1e-5)
def test_conformance(check):
    check()


@suite(spectral_filter, settings={"rank": 0.4, "base_subspace": "remove"}, tolerance=1e-5)
def test_conformance_without_the_base(check):
    check()


def test_by_hand():
    # the base's first direction is the first output and input: of the change, one entry lies within it
    base = diagonal(5, 2)
    change = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    within = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert equals(merge(spectral_filter, [base + change], base, rank=0.5), base + within)
    assert equals(
        merge(spectral_filter, [base + change], base, rank=0.5, base_subspace="remove"), base + change - within
    )
    assert equals(merge(spectral_filter, [base + change], base, rank=0.5, scale=3.0), base + 3 * within)


@pytest.mark.parametrize("rank", [0.2, 0.5, 1.0])
def test_both_parts_together_are_the_model_and_filtering_twice_changes_nothing(rank):
    base, model = normal(9, 9, seed=1), normal(9, 9, seed=2)
    kept = merge(spectral_filter, [model], base, rank=rank)
    removed = merge(spectral_filter, [model], base, rank=rank, base_subspace="remove")
    assert equals(kept + removed, base + model, 1e-5)
    assert equals(merge(spectral_filter, [kept], base, rank=rank), kept, 1e-5)
    assert float((kept - base).norm()) <= float((model - base).norm())
    assert equals(kept, model, 1e-5) == (rank == 1.0)


def test_low_rank_factors():
    base, change = normal(8, 6, seed=1), of_rank(2, 8, 6, 3)
    out = spectral_filter([change], base, rank=0.5)
    assert equals(out, merge(spectral_filter, [base.double() + change.dense()], base, rank=0.5), 1e-5)
