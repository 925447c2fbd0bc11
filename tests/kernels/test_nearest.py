"""The polar factor in float32: as that in float64 but for a few millionths, or none."""

import pytest
import torch

from mergery.kernels.nearest import halves
from mergery.kernels.spectral import RANK, parted, polar


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bases(m: int, *widths: int) -> torch.Tensor:
    """Orthonormal columns of several tasks, side by side."""
    return torch.cat([torch.linalg.qr(normal(m, width, seed=seed)).Q for seed, width in enumerate(widths)], dim=1)


def agrees(matrix: torch.Tensor) -> None:
    for found, expected in zip(parted(matrix, single=True), parted(matrix), strict=True):
        assert found.dtype == torch.float32
        assert float((found.double() - expected).norm()) < 1e-5 * float(expected.norm())


@pytest.mark.parametrize("matrix", [bases(600, 200, 200, 200), bases(1500, 300, 300), bases(700, 300, 250)])
def test_it_is_that_of_float64(matrix):
    assert halves(matrix, RANK) is not None
    agrees(matrix)
    for turned in (matrix, matrix.mT):
        assert torch.allclose(polar(turned, single=True).double(), polar(turned), rtol=0.0, atol=1e-5)


def test_small_directions_come_from_float64():
    """Two tasks that share some directions but for a hair: what tells them apart is amplified as it is."""
    first, hair = torch.linalg.qr(normal(900, 300)).Q, torch.linalg.qr(normal(900, 300, seed=1)).Q
    second = torch.linalg.qr(torch.cat([first[:, :40] + 1e-3 * hair[:, :40], hair[:, 40:]], dim=1)).Q
    matrix = torch.cat([first, second], dim=1)
    agrees(matrix)


def test_what_the_matrix_does_not_span_is_zero():
    matrix = bases(900, 300, 250)
    matrix = torch.cat([matrix, matrix[:, :20]], dim=1)
    agrees(matrix)


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(600, 600, dtype=torch.float64),
        bases(600, 200, 200),  # too small to gain
        torch.cat([bases(900, 300)] * 2, dim=1),  # half of it is nothing
        bases(600, 600) * torch.logspace(0, -6, 600, dtype=torch.float64),  # most of it is small
        bases(600, 600).expand(2, 600, 600),
    ],
)
def test_where_it_gains_nothing_there_is_none(matrix):
    assert halves(matrix, RANK) is None
    assert polar(matrix, single=True).dtype == torch.float64


def test_adapters_that_fill_few_of_the_columns_are_left_to_float64():
    """Where most eigenvalues are zero, the decomposition in float32 may find none."""
    matrix = torch.zeros(1536, 575, dtype=torch.float64)
    matrix[:, ::72] = bases(1536, 8)
    assert halves(matrix, RANK) is None
    assert torch.equal(parted(matrix, single=True)[0], parted(matrix)[0])
