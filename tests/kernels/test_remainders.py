"""Singular triplets of what orthonormal columns leave of a matrix, in products of float32."""

import pytest
import torch

from mergery.kernels import spectral
from mergery.kernels.remainders import ahead, remainder, shared_left, turned
from mergery.kernels.ways import InFloat64

ROWS, COLUMNS, SHARED, TOP = 900, 520, 400, 40


def falling(seed: int, power: float = -0.5) -> torch.Tensor:
    """A matrix whose singular values fall as a power of their number."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(side, COLUMNS, generator=generator) for side in (ROWS, COLUMNS))
    return (left * torch.arange(1, COLUMNS + 1) ** power) @ right.mT


def common(matrix: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return spectral.svd(matrix + other, SHARED)[0]


def lost(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """How much of orthonormal columns lies outside the span of others."""
    return float(torch.linalg.vector_norm(found - wanted @ (wanted.mT @ found)))


def test_they_are_those_of_float64():
    matrix, other = falling(0), falling(1)
    shared = common(matrix, other)
    found = remainder(shared, matrix, TOP, 0.0)
    assert found is not None
    u, s, vh = found
    a, b, ch = InFloat64(single=False).beyond(shared, matrix, TOP, of=torch.tensor(0.0), noise=torch.tensor(0.0))
    assert torch.allclose(s, b, rtol=1e-5, atol=0.0)
    assert lost(u, a) < 1e-4
    assert lost(vh.mT, ch.mT) < 1e-4
    assert float(torch.linalg.vector_norm(shared.mT @ u)) < 1e-3


def test_of_the_last_term_of_a_sum_it_follows_from_the_others():
    terms = [falling(seed) for seed in range(3)]
    u, s, vh = spectral.svd(terms[0] + terms[1] + terms[2], SHARED)
    still = ahead(s, vh)
    for place, term in enumerate(terms):
        alone = remainder(u, term, TOP, 0.0)
        found = remainder(u, term, TOP, 0.0, still=still, last=place == 2)
        assert alone is not None and found is not None
        assert lost(found[0], alone[0]) < 1e-4
        assert torch.allclose(found[1], alone[1], rtol=1e-5, atol=0.0)


def test_values_that_are_not_above_the_bound_are_left_to_float64():
    matrix, other = falling(0), falling(1)
    shared = common(matrix, other)
    found = remainder(shared, matrix, TOP, 0.0)
    assert found is not None
    last = float(found[1][-1])
    assert remainder(shared, matrix, TOP, 0.999 * last) is not None
    assert remainder(shared, matrix, TOP, last) is None
    assert remainder(shared, matrix, TOP, 1.001 * last) is None


def test_where_nothing_but_rounding_is_left_there_is_none():
    matrix = falling(0)
    shared = torch.linalg.qr(matrix.double()).Q  # holds all of it
    assert remainder(shared, matrix, TOP, 0.0) is None


def test_small_wide_and_stacked_matrices_are_left_to_float64():
    matrix, other = falling(0), falling(1)
    shared = common(matrix, other)
    assert remainder(shared, matrix[:, :500], TOP, 0.0) is None
    assert remainder(shared[:510], matrix[:510], TOP, 0.0) is None
    assert remainder(shared.expand(2, *shared.shape), matrix.expand(2, *matrix.shape), TOP, 0.0) is None
    assert remainder(shared, matrix, 0, 0.0) is None


def test_vectors_turn_by_an_error_over_how_far_values_lie_apart():
    values = torch.tensor([4.0, 3.0, 1.0])
    # the first two against the third: 0.1 / 3 and 0.1 / 2
    assert turned(values, 2, 0.1) == pytest.approx(((0.1 / 3) ** 2 + (0.1 / 2) ** 2) ** 0.5)
    assert turned(torch.ones(2), 1, 0.1) == pytest.approx(1.0)  # equal ones may be any


def test_left_vectors_of_a_sum_are_unit_vectors():
    matrix = falling(2).double()
    size, vectors = spectral.basis(matrix)
    found = shared_left(matrix, vectors[:, :SHARED], size[:SHARED])
    assert found is not None
    assert found.dtype == torch.float32
    assert lost(found.double(), spectral.svd(matrix, SHARED)[0]) < 1e-4
    steep = falling(2, -3.0).double()
    size, vectors = spectral.basis(steep)
    assert shared_left(steep, vectors[:, :SHARED], size[:SHARED]) is None
