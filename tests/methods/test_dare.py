"""dare_linear and dare_ties."""

import pytest
import torch

from mergery.errors import RecipeError
from mergery.kernels import random
from mergery.methods.dare_linear import dare_linear
from mergery.methods.dare_ties import dare_ties

from .merging import equals, merge, normal, suite

BOTH = pytest.mark.parametrize("method", [dare_linear, dare_ties], ids=["dare_linear", "dare_ties"])
N = 100_000


@suite(dare_linear)
def test_conformance(check):
    check()


@suite(dare_ties, settings={"density": 0.6})
def test_conformance_with_election(check):
    check()


@suite(dare_linear, settings={"rescale": "l1", "density": 0.5, "normalize": True})
def test_conformance_by_l1(check):
    check()


@suite(dare_ties, settings={"rescale": "none", "density": 0.5, "normalize": False, "scale": 0.5})
def test_conformance_without_rescaling(check):
    check()


def test_by_hand():
    # four coins, two fall below 1/2: those entries are doubled; the others are the base
    coins = random.uniform(random.key(4, "tensor", "0"), 0, 4)
    out = merge(dare_linear, [[2, 4, 6, 8]], [1, 1, 1, 1], density=0.5, seed=4)
    assert equals(out, [1 + 2 * d if coin < 0.5 else 1 for d, coin in zip((1, 3, 5, 7), coins, strict=True)])
    assert 0 < int((coins < 0.5).sum()) < 4


def test_signs_are_elected_among_what_is_left():
    # nothing dropped: 5, -2 elect +, mean 5; with the sum of dare_linear, 3
    assert equals(merge(dare_ties, [[5.0], [-2.0]], [0.0], density=1.0), [5.0])
    assert equals(merge(dare_linear, [[5.0], [-2.0]], [0.0], density=1.0, scale=1.0), [3.0])
    assert equals(merge(dare_ties, [[5.0], [3.0]], [0.0], density=1.0), [4.0])
    assert equals(merge(dare_ties, [[5.0], [3.0]], [0.0], density=1.0, normalize=False, scale=1.0), [8.0])


@BOTH
def test_nothing_and_everything(method):
    base, model = normal(50, seed=1), normal(50, seed=2)
    assert equals(merge(method, [model], base, density=1.0), model)
    for rescale in ("probability", "l1", "none"):
        assert torch.equal(merge(method, [model], base, density=0.0, rescale=rescale), base)


@BOTH
def test_kept_entries_are_divided_by_the_probability(method):
    delta = normal(1000)
    out = merge(method, [delta], torch.zeros(1000), density=0.3)
    kept = out != 0
    assert equals(out[kept], delta[kept] / 0.3)


def test_the_expected_task_vector_is_the_original():
    out = merge(dare_linear, [torch.full((N,), 2.0)], torch.zeros(N), density=0.2)
    sigma = 2.0 * ((1 - 0.2) / 0.2 / N) ** 0.5  # of the mean of N entries with variance d^2 (1 - p) / p
    assert abs(float(out.double().mean()) - 2.0) < 5 * sigma
    rate = float((out != 0).double().mean())
    assert abs(rate - 0.2) < 5 * (0.2 * 0.8 / N) ** 0.5


def test_models_are_dropped_independently():
    ones, zero = torch.ones(N), torch.zeros(N)
    first = merge(dare_linear, [ones, ones], zero, weight=[1, 0], density=0.5) != 0
    second = merge(dare_linear, [ones, ones], zero, weight=[0, 1], density=0.5) != 0
    assert abs(float((first & second).double().mean()) - 0.25) < 5 * (0.25 * 0.75 / N) ** 0.5


def test_the_seed_decides():
    delta, zero = normal(1000), torch.zeros(1000)
    first = merge(dare_linear, [delta], zero, seed=1)
    assert torch.equal(first, merge(dare_linear, [delta], zero, seed=1))
    assert not torch.equal(first, merge(dare_linear, [delta], zero, seed=2))


def test_l1_rescaling():
    # ten equal entries in a thousand: their sum of magnitudes comes back whatever number of them is kept
    delta = torch.zeros(1000)
    delta[::100] = 3.0
    out = merge(dare_linear, [delta], torch.zeros(1000), density=0.3, rescale="l1", seed=3)
    assert 0 < int((out != 0).sum()) < 10
    assert float(out.abs().sum()) == pytest.approx(30.0, rel=1e-6)


def test_weights_that_sum_to_zero_cannot_be_normalized():
    with pytest.raises(RecipeError, match="the weights sum to zero"):
        merge(dare_linear, [[1.0], [2.0]], [0.0], weight=[1, -1], normalize=True)
