"""Singular vectors in float32: right to a few millionths where float32 tells them apart, refused where it does not."""

from __future__ import annotations

import pytest
import torch

from mergery.kernels.single import Singular, Unsound, singular

from .test_products import distance, falling, normal

COUNT = 170
CASES = {
    "square": normal(512, 512),
    "tall": normal(768, 512),
    "falling": falling(512, 512, 0.5),
    "falling faster": falling(640, 512, 1.0),
}


def truncated(matrix: torch.Tensor, count: int) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u[:, :count] * s[:count]) @ vh[:count]


def outside(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The length of what found vectors have that expected ones do not span."""
    wide = found.double()
    return float((wide - expected @ (expected.mT @ wide)).norm())


@pytest.mark.parametrize("name", CASES)
def test_the_first_span_what_they_should(name):
    matrix = CASES[name]
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    first = singular(matrix)
    found, apart = first.settled(matrix, COUNT)
    assert torch.allclose(found.s[:COUNT].double(), s[:COUNT], rtol=0.0, atol=2e-6 * float(s[0]))
    off = max(outside(found.u[:, :COUNT], u[:, :COUNT]), outside(found.v[:, :COUNT], vh[:COUNT].mT))
    assert off <= 2.0 * apart < 1e-4
    assert off < outside(first.u[:, :COUNT], u[:, :COUNT])  # what float64 next to the cut is for
    made = (found.u[:, :COUNT] * found.s[:COUNT]) @ found.v[:, :COUNT].mT
    assert distance(made, truncated(matrix, COUNT)) < 3e-6


def test_what_rounding_has_added_to_a_matrix_is_told():
    matrix = falling(640, 512, 1.0)
    size = 1e-6 * float(matrix.norm())
    error = normal(640, 512, seed=5)
    error *= size / error.norm()
    u, _, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    wrong = matrix + error
    found, apart = singular(wrong).settled(wrong, COUNT, size)
    assert outside(found.u[:, :COUNT], u[:, :COUNT]) == pytest.approx(apart, rel=0.5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("cut", [512, 200])
def test_functions_of_singular_values(name, cut):
    u, _, vh = torch.linalg.svd(CASES[name].double(), full_matrices=False)
    level = (torch.arange(512) < cut) * (2.0 - torch.arange(512) / 512)
    found = singular(CASES[name]).function(level)
    assert distance(found, (u * level) @ vh) < 1e-5


def test_where_float32_does_not_hold_them_they_are_refused():
    steep = singular(falling(512, 512, 2.0))
    with pytest.raises(Unsound):
        steep.function(torch.ones(512))
    alike = singular(torch.eye(512))
    with pytest.raises(Unsound):  # no cut among equals
        alike.settled(torch.eye(512), 100)
    with pytest.raises(Unsound):
        singular(torch.full((512, 512), torch.nan))


def with_values(*s: float) -> Singular:
    size = torch.tensor(s)
    n = len(s)
    return Singular(torch.eye(n), size, torch.eye(n), torch.diag(size), torch.zeros(n, n))


def test_a_count_is_given_where_rounding_has_no_say():
    found = with_values(1.0, 0.5, 0.1)
    assert found.count(of=0.0, noise=0.0, top=3) == 3
    assert found.count(of=0.0, noise=0.2, top=3) == 2
    assert found.count(of=0.0, noise=0.2, top=1) == 1
    assert found.count(of=3e5, noise=0.0, top=3) == 2  # of a difference of far larger ones
    with pytest.raises(Unsound):
        found.count(of=0.0, noise=0.1000001, top=3)
    with pytest.raises(Unsound):  # 3e-7 of the first: zero in float64, and perhaps in float32 just rounding
        with_values(1.0, 0.5, 3e-7).count(of=0.0, noise=0.0, top=3)
    assert with_values(1.0, 0.5, 3e-7).count(of=0.0, noise=0.0, top=2) == 2
    with pytest.raises(Unsound):
        with_values(1.0, float("nan")).count(of=0.0, noise=0.0, top=2)
