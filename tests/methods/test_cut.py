"""The numerical rank of least interference in closed form: what is divided by is a number, not noise."""

import numpy as np
import pytest
import torch

from mergery.errors import RecipeError
from mergery.methods.actmat import actmat
from mergery.methods.optmerge import optmerge
from mergery.methods.wudi import wudi

from .matrices import orthonormal
from .merging import equals, merge

CLOSED = {"solver": "closed"}
FAMILY = [(actmat, {}), (wudi, CLOSED), (optmerge, CLOSED)]


def shared(k: int, out: int, into: int) -> list[torch.Tensor]:
    """Task vectors with singular values that fall like the root of their place, half of each common to all."""
    fall = torch.arange(1, min(out, into) + 1, dtype=torch.float64) ** -0.5

    def one(seed: int) -> torch.Tensor:
        left, right = orthonormal(out, len(fall), seed), orthonormal(into, len(fall), seed + 1)
        return left * fall @ right.mT

    return [(one(0) + one(10 + 2 * task)).float() for task in range(k)]


@pytest.mark.parametrize(("k", "out", "into"), [(2, 64, 128), (2, 128, 256), (4, 24, 96), (3, 33, 98), (3, 65, 196)])
def test_where_the_stack_is_nearly_square_it_keeps_noise_out(k, out, into):
    deltas, zero = shared(k, out, into), torch.zeros(out, into)
    for method, own in FAMILY[:2]:
        noisy = float(merge(method, deltas, zero, cut=0.0, **own).norm())
        assert noisy > 2.5 * float(merge(method, deltas, zero, **own).norm())


def test_it_is_the_pseudo_inverse_in_float32():
    # as its authors write it; here in float64, with float32's bound
    deltas = shared(3, 20, 60)
    wide = [delta.double() for delta in deltas]
    aim, covariance = sum(d @ d.mT @ d for d in wide), sum(d.mT @ d for d in wide)
    wanted = aim @ torch.linalg.pinv(covariance, rtol=60 * float(np.finfo(np.float32).eps), hermitian=True)
    assert equals(merge(actmat, deltas, torch.zeros(20, 60)), wanted, 1e-5)


def test_by_hand():
    # inputs of length 1 and 1/8: with a cut of 1/64 and below the second has a say, at 1/64 of the first's square it has none
    models, zero = [[[1.0, 0.0], [0.0, 0.125]]], np.zeros((2, 2))
    for method, own in FAMILY:
        assert equals(merge(method, models, zero, cut=0.01, **own), [[1, 0], [0, 0.125]])
        assert equals(merge(method, models, zero, cut=0.02, **own), [[1, 0], [0, 0]])


def test_it_is_checked():
    for method, own in FAMILY:
        for cut in (-0.1, 1.0):
            with pytest.raises(RecipeError, match="cut must be at least 0 and below 1"):
                merge(method, [[[1.0]]], [[0.0]], cut=cut, **own)
