import pytest
import torch

from mergery.methods.cart import cart
from mergery.methods.linear import linear

from .matrices import diagonal, truncated
from .merging import equals, merge, normal, suite


@suite(cart, settings={"rank": 0.3}, fixed_point={}, tolerance=1e-5)
def test_conformance(check):
    check()


def test_by_hand():
    # mean diag(2, 2); the differences are diag(2, 1) and its opposite, of which the first direction stays
    models = [diagonal(4, 3), diagonal(0, 1), diagonal(2, 2)]
    out = merge(cart, models, rank=0.5)
    assert equals(out, diagonal(2, 2))  # what is added cancels
    # three about diag(1, 0): diag(2, 0), diag(-1, 0.5) and diag(-1, -0.5); the last two lose their second entries
    models = [diagonal(3, 0), diagonal(0, 0.5), diagonal(0, -0.5)]
    assert equals(merge(cart, models, rank=0.5), diagonal(1, 0))
    # one whose own direction leads: about diag(1, 1) diag(2, -1), diag(-1, 2), diag(-1, -1 ± rounding)
    models = [diagonal(3, 0), diagonal(0, 3), diagonal(0, 0.5)]
    mean = diagonal(1, 3.5 / 3)
    # differences (2, -3.5/3), (-1, 5.5/3), (-1, -2/3): kept 2, 5.5/3 and -1
    assert equals(merge(cart, models, rank=0.5, scale=0.5), mean + 0.5 * diagonal(2 - 1, 5.5 / 3))


@pytest.mark.parametrize("own", [{"rank": 1.0}, {"rank": 0.3, "scale": 0.0}, {"rank": 0.0}])
def test_with_all_or_nothing_of_the_differences_it_is_the_average(own):
    models = [normal(7, 9, seed=seed) for seed in range(4)]
    assert equals(merge(cart, models, **own), merge(linear, models))


def test_of_two_models_the_differences_cancel_at_any_rank():
    models = [normal(7, 9, seed=seed) for seed in range(2)]
    assert equals(merge(cart, models, rank=0.2), merge(linear, models))


def test_what_each_adds_is_its_nearest_difference_of_the_rank():
    models = [normal(10, 12, seed=seed) for seed in range(3)]
    mean = sum(model.double() for model in models) / 3
    wanted = mean + 0.7 * sum(truncated(model.double() - mean, 2) for model in models)
    assert equals(merge(cart, models, rank=0.15, scale=0.7), wanted, 1e-5)
    assert equals(
        merge(cart, [torch.stack([model, 2 * model]) for model in models], rank=0.15, scale=0.7)[1], 2 * wanted, 1e-5
    )
