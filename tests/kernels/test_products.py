"""Polar factors by products in float32: as those of float64 but for an error that is known, or none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mergery.kernels.products import CUSHION, LEAST, closest, gain, polar, polynomials, towards_polar


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def falling(m: int, n: int, power: float) -> torch.Tensor:
    """A matrix whose singular values fall like a power of their place."""
    left, right = (torch.linalg.qr(normal(side, n, seed=side).double()).Q for side in (m, n))
    return ((left * torch.arange(1, n + 1) ** -power) @ right.mT).float()


def exact(matrix: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ vh


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def test_a_polynomial_is_closest_to_one_where_it_errs_alike_in_four_places():
    (a, b, c), off = closest(0.1)
    x = np.linspace(0.1, 1.0, 100_001)
    error = a * x + b * x**3 + c * x**5 - 1.0
    assert np.abs(error).max() == pytest.approx(off, rel=1e-6)
    # below, above, below, above: no polynomial of the kind does better (Chebyshev)
    assert sum(np.diff(np.sign(error[np.abs(error) > 0.999 * off])) != 0) == 3


def test_in_turn_they_bring_all_above_one_half_and_none_far_down():
    x = np.logspace(np.log10(LEAST), 0.0, 100_001)
    for a, b, c in polynomials():
        large = x >= CUSHION
        x = a * x + b * x**3 + c * x**5
        assert x.max() <= 1.0 and x[large].min() >= CUSHION
    assert x.min() > 0.5


CASES = {
    "square": normal(600, 600),
    "one row more": normal(601, 600, seed=1),
    "tall": normal(900, 600, seed=2),
    "falling": falling(600, 600, 0.5),
    "falling faster": falling(700, 600, 1.0),
    "tiny": 1e-15 * normal(600, 600),
    "huge": 1e15 * normal(600, 600),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_that_of_float64_within_its_error(name):
    found, expected = polar(CASES[name]), exact(CASES[name])
    assert found is not None
    assert found.factor.dtype == torch.float32
    assert distance(found.factor, expected) <= 2.0 * found.error < 1e-5
    assert distance(found.factor.double() @ found.root.double(), CASES[name].double()) < 2e-6


@pytest.mark.parametrize("power", [1.5, 2.0])
def test_of_a_steep_matrix_the_error_is_known_to_be_large(power):
    matrix = falling(600, 600, power)
    found = polar(matrix)
    assert found is not None
    assert 1e-5 < distance(found.factor, exact(matrix)) <= 2.0 * found.error


def test_of_a_tall_matrix_products_do_not_diverge():
    """Singular values that rounding makes larger than one would be enlarged by polynomials that are steep there."""
    for seed in range(4):
        factor = towards_polar(normal(768, 512, seed=seed))
        assert float((factor.mT @ factor - torch.eye(512)).norm()) < 1e-4


@pytest.mark.parametrize(
    "matrix",
    [
        torch.zeros(600, 600),
        torch.cat([normal(600, 300)] * 2, dim=1),
        normal(600, 8) @ normal(8, 600),
        torch.full((600, 600), torch.nan),
    ],
)
def test_of_a_lower_rank_there_is_none(matrix):
    assert polar(matrix) is None


@pytest.mark.parametrize("shape", [(300, 300), (450, 300)])
def test_errors_of_the_matrix_are_enlarged_as_it_says(shape):
    matrix, error = normal(*shape).double(), 1e-6 * normal(*shape, seed=1).double()
    s = torch.linalg.svdvals(matrix)
    told = gain(shape[0], shape[1], float((1.0 / s).sum()), float((1.0 / s.square()).sum())) * float(error.norm())
    seen = distance(exact(matrix + error), exact(matrix))
    assert 0.9 * seen < told < 2.0 * seen
    found = polar(matrix.float())
    assert found is not None
    assert found.gain * float(error.norm()) == pytest.approx(told, rel=1e-3)
