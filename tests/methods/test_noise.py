"""Rounding of inputs in 16 bits is not taken for directions by the methods on singular vectors."""

import pytest
import torch

from mergery import merge_tensors
from mergery.kernels.spectral import noise_of, noise_of_sum, svd
from mergery.kernels.threads import quiet_torch
from mergery.method import Method, Noise
from mergery.methods.dc_merge import dc_merge
from mergery.methods.iso_c import iso_c
from mergery.methods.iso_cts import iso_cts
from mergery.methods.subspace_boosting import subspace_boosting
from mergery.methods.svc import svc
from mergery.methods.tsv_merge import tsv_merge

from .matrices import of_rank
from .merging import equals, normal

SPECTRAL = [iso_c, iso_cts, subspace_boosting, tsv_merge, dc_merge, svc]
BF16 = torch.bfloat16


def adapters(k: int, rank: int, out: int, into: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A base and adapters' products, of the sizes that language models have."""
    base = (normal(out, into, seed=99) * 0.02).to(BF16)
    products = [of_rank(rank, out, into, 10 * task).dense() for task in range(k)]
    return base, [product * (1e-3 / float(product.square().mean().sqrt())) for product in products]


def change(method: Method, models: list[torch.Tensor], base: torch.Tensor) -> torch.Tensor:
    """What a method adds to the base, before it is rounded."""
    noise = [Noise().of(model.float(), str(model.dtype).removeprefix("torch.")) for model in models]
    deltas = [model.float() - base.float() for model in models]
    with quiet_torch(load=True):  # as in a merge: with more threads sums are made otherwise
        return method.function(deltas, noise, **method.resolve(len(models), {}))


def share_inside(merged: torch.Tensor, products: list[torch.Tensor]) -> float:
    """The part of what is added that lies in the columns and rows that the adapters span, by energy."""
    rank = sum(int(torch.linalg.matrix_rank(product.double())) for product in products)
    left = svd(torch.cat(products, dim=1), rank)[0]
    right = svd(torch.cat(products, dim=0), rank)[2]
    wide = merged.double()
    return float((left.mT @ wide @ right.mT).square().sum() / wide.square().sum())


@pytest.mark.parametrize("method", SPECTRAL)
def test_adapters_merged_into_bfloat16_keep_their_directions(method):
    base, products = adapters(3, 4, 192, 256)
    models = [(base.float() + product).to(BF16) for product in products]
    told = change(method, models, base)
    assert share_inside(told, products) > 0.99
    exact = change(method, products, torch.zeros_like(base))
    assert float((told - exact).norm()) < 0.1 * float(exact.norm())
    # as float32, the same numbers are believed to the last bit, and their rounding is merged with them
    believed = change(method, [model.float() for model in models], base)
    assert share_inside(believed, products) < share_inside(told, products)
    assert torch.equal(merge_tensors(method, models, base), (base.float() + told).to(BF16))


def test_the_deviation_by_hand():
    # between 1 and 2 numbers of bfloat16 lie 1/128 apart, between 4 and 8 1/32
    values = torch.tensor([[1.0, 1.5], [4.0, -7.0]])
    wanted = ((2 / 128**2 + 2 / 32**2) / 4 / 12) ** 0.5
    assert equals(Noise().of(values, "bfloat16"), wanted, 1e-12)
    assert equals(Noise().of(values, "float16"), wanted / 8, 1e-12)
    assert equals(Noise().of(torch.stack([values, 2 * values]), "bfloat16"), [wanted, 2 * wanted], 1e-12)
    assert not Noise().of(values, "float32").any()
    # the least spacing of float16 is 2^-24, also at zero
    assert equals(Noise().of(torch.zeros(1, 1), "float16"), 2.0**-24 / 12**0.5, 1e-12)


def test_the_deviation_is_that_of_rounding():
    values = normal(300, 200) * 0.02
    error = values.to(BF16).double() - values.double()
    deviation = float(Noise().of(values.to(BF16).float(), "bfloat16"))
    assert abs(float(error.square().mean().sqrt()) / deviation - 1.0) < 0.02
    largest = float(torch.linalg.matrix_norm(error, ord=2))
    (bound,) = noise_of([values], [torch.tensor(deviation, dtype=torch.float64)])
    assert largest < float(bound) < 1.1 * largest


def test_independent_errors_add_as_squares():
    three, four = torch.tensor(3.0), torch.tensor(4.0)
    assert float(noise_of_sum([three, four], [1.0, -1.0])) == 5.0
    assert float(noise_of_sum([three, four], [2.0, 0.0])) == 6.0


@pytest.mark.parametrize("method", SPECTRAL)
def test_changes_as_small_as_rounding_are_merged_as_they_are(method):
    # nothing tells them from rounding: to leave them out would give back the base
    base = (normal(24, 32, seed=99) * 0.02).to(BF16)
    models = [(base.float() + normal(24, 32, seed=task) * 2e-5).to(BF16) for task in range(3)]
    out = change(method, models, base)
    assert torch.equal(out, change(method, [model.float() for model in models], base))
    assert out.any()
