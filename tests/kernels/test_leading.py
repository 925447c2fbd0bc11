"""Leading eigenvectors alone, and those in float32 that are made exact next to a cut."""

import pytest
import torch

from mergery.kernels import spectral
from mergery.kernels.leading import few, leading, settled


def turned(values: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix with these eigenvalues, and its eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    return (vectors * values) @ vectors.mT, vectors


FALLING = 1.0 / torch.arange(1, 601, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 40, 599])
def test_they_are_the_first_of_all(count):
    matrix, vectors = turned(FALLING)
    found = leading(matrix, count)
    assert found is not None
    values, head = found
    assert torch.allclose(values, FALLING[:count], rtol=1e-8, atol=0.0)
    outside = head - vectors[:, :count] @ (vectors[:, :count].mT @ head)
    assert float(torch.linalg.vector_norm(outside)) < 1e-6
    assert torch.allclose(head.mT @ head, torch.eye(count, dtype=torch.float64), rtol=0.0, atol=1e-7)
    assert torch.allclose((head * vectors[:, :count]).sum(0).abs(), torch.ones(count, dtype=torch.float64), atol=1e-6)


def test_float32_alone_would_not_do():
    matrix, vectors = turned(FALLING)
    alone = torch.linalg.eigh(matrix.float())[1].flip(-1)[:, :300].double()
    outside = alone - vectors[:, :300] @ (vectors[:, :300].mT @ alone)
    assert float(torch.linalg.vector_norm(outside)) > 1e-5


def test_small_matrices_stacks_and_all_of_the_vectors_are_found_at_once():
    assert leading(turned(FALLING[:500])[0], 10) is None
    assert leading(turned(FALLING)[0], 600) is None
    assert leading(turned(FALLING)[0].expand(2, 600, 600), 10) is None


@pytest.mark.parametrize("shape", [(600, 640), (640, 600)])
def test_singular_triplets_come_of_them(shape, monkeypatch):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    u, s, vh = spectral.svd(matrix, 100)
    monkeypatch.setattr(spectral, "leading", lambda matrix, count: None)  # then all are found
    a, b, ch = spectral.svd(matrix, 100)
    assert torch.allclose(s, b, rtol=1e-9, atol=0.0)
    assert torch.allclose((u * s) @ vh, (a * b) @ ch, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("count", [300, 510])
def test_a_cut_in_float32_is_settled(count):
    matrix, vectors = turned(FALLING)
    values, coarse = (each.flip(-1) for each in torch.linalg.eigh(matrix.float()))
    found = settled(matrix.float(), values, coarse, count)
    assert found is not None

    def outside(basis: torch.Tensor) -> float:
        wide = basis[:, :count].double()
        return float(torch.linalg.vector_norm(wide - vectors[:, :count] @ (vectors[:, :count].mT @ wide)))

    assert outside(found[1]) < 0.3 * outside(coarse)
    assert settled(torch.eye(600), torch.ones(600), torch.eye(600), 300) is None


def test_few_of_float32_are_raised_above_the_others():
    matrix = turned(2.0 - torch.arange(600, dtype=torch.float64) / 300)[0]
    found = few(matrix.float(), 40, 1e-4)
    assert found is not None
    values, head = found
    exact = torch.linalg.eigh(matrix.float().double())
    outside = head - exact[1][:, -40:] @ (exact[1][:, -40:].mT @ head)
    assert float(torch.linalg.vector_norm(outside)) < 1e-5
    assert torch.allclose(values[:40], exact[0].flip(-1)[:40], rtol=1e-9, atol=0.0)
    assert len(values) == 600
    assert few(matrix.float(), 40, 1e-9) is None  # residuals say that it is not so exact


def test_there_are_not_few_where_most_are_wanted_or_the_first_drown_the_others():
    assert few(turned(FALLING)[0].float(), 40, 1.0) is None  # 1 beside 1/136
    flat = turned(2.0 - torch.arange(600, dtype=torch.float64) / 300)[0].float()
    assert few(flat, 300, 1.0) is None
    assert few(flat, 0, 1.0) is None
    assert few(torch.zeros(600, 600), 40, 1.0) is None
