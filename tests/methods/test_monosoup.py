import math

import pytest
import torch

from mergery.methods.monosoup import monosoup

from .matrices import diagonal
from .merging import equals, merge, normal, suite


@suite(monosoup, fixed_point={"energy": 1.0}, tolerance=1e-5)
def test_conformance(check):
    check()


@suite(monosoup, settings={"energy": 0.7}, tolerance=1e-5)
def test_conformance_with_an_energy(check):
    check()


def test_by_hand():
    # 4 holds 16 of 16 + 4 + 1; what follows it is half of it: q = 1/4, and l = 1/4 + 3/4 sqrt(5/21)
    zero, low = torch.zeros(3, 3), 0.25 + 0.75 * math.sqrt(5 / 21)
    wanted = diagonal(4 * (1 - low), 2 * low, low)
    assert equals(merge(monosoup, [diagonal(4, 2, 1)], zero, energy=0.7), wanted)
    assert equals(merge(monosoup, [diagonal(4, 2, 1)], zero, energy=0.7, scale=2.0), 2 * wanted)
    # two equal singular values have an effective rank of 2: both lead, and hold all
    assert equals(merge(monosoup, [diagonal(3, 3, 0)], zero), diagonal(3, 3, 0))


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (3, 4, 6)])
def test_with_all_of_the_energy_the_fine_tune_comes_back(shape):
    base, model = normal(*shape, seed=1), normal(*shape, seed=2)
    assert equals(merge(monosoup, [model], base, energy=1.0), model, 2e-6)
    assert not equals(merge(monosoup, [model], base, energy=0.5), model, 1e-2)
