import pytest
import torch

from mergery.errors import RecipeError
from mergery.methods.star import star

from .hard_cases import hard_cases
from .matrices import diagonal, rank, spectrum
from .merging import equals, merge, normal, suite


@suite(star, fixed_point={"energy": 1.0}, tolerance=1e-5)
def test_conformance(check):
    check()


@hard_cases(star)
def test_hard_cases(case):
    case()


def test_by_hand():
    zero = torch.zeros(3, 3)
    # of 4 + 3 + 1 the first two hold 7/8, the first half: scaled up to 8 again
    delta = diagonal(4, 3, 1)
    assert equals(merge(star, [delta], zero, energy=0.8), diagonal(4, 3, 0) * 8 / 7)
    assert equals(merge(star, [delta], zero, energy=0.5), diagonal(8, 0, 0))
    assert equals(merge(star, [delta, diagonal(0, 0, 6)], zero, energy=0.5), diagonal(4, 0, 3))
    assert equals(merge(star, [delta, diagonal(0, 0, 6)], zero, energy=0.5, weight=[3, 1]), diagonal(6, 0, 1.5))
    assert equals(merge(star, [delta, diagonal(0, 0, 6)], zero, energy=0.5, normalize=False), diagonal(8, 0, 6))
    assert not merge(star, [delta], zero, energy=0.0).any()


@pytest.mark.parametrize("energy", [0.1, 0.4, 0.9])
def test_the_sum_of_singular_values_stays(energy):
    delta = normal(12, 9)
    out = merge(star, [delta], torch.zeros(12, 9), energy=energy)
    assert spectrum(out).sum() == pytest.approx(float(spectrum(delta).sum()), rel=1e-5)
    s = spectrum(delta)
    assert rank(out) == int((s.cumsum(0) < energy * s.sum()).sum()) + 1


def test_weights_that_sum_to_zero():
    with pytest.raises(RecipeError, match="the weights sum to zero"):
        merge(star, [diagonal(1, 2), diagonal(2, 1)], torch.zeros(2, 2), weight=[1, -1])
