"""ram and ramplus_tl."""

import pytest
import torch

from mergery.errors import RecipeError
from mergery.methods.ram import ram
from mergery.methods.ramplus_tl import ramplus_tl

from .merging import equals, merge, normal, suite


@suite(ram, scale_free=False, fixed_point={"epsilon": 0.0})
def test_conformance(check):
    check()


@suite(ramplus_tl, scale_free=False, fixed_point={"epsilon": 0.0, "r": 0.0})
def test_conformance_of_ramplus(check):
    check()


@suite(ramplus_tl, settings={"epsilon": 0.0, "r": 0.5, "alpha": 1.0, "scale": 0.5})
def test_conformance_counting_every_change(check):
    check()


@suite(ramplus_tl, settings={"epsilon": 0.15, "r": 0.5, "alpha": 1.0}, scale_free=False)
def test_conformance_with_sparse_changes(check):
    check()


def test_by_hand():
    # only the first changed entry 1, only the second entry 2, both entry 3: (4 + 2) / 2; nobody entry 4
    models = [[3, 1, 5, 1], [1, 7, 3, 1]]
    assert equals(merge(ram, models, [1, 1, 1, 1]), [3, 7, 4, 1])
    assert equals(merge(ram, models, [1, 1, 1, 1], scale=0.5), [2, 4, 2.5, 1])
    # each shares one change and has one of its own: the ratio 1 counts as 0.2, the factor is 1.02
    assert equals(merge(ramplus_tl, models, [1, 1, 1, 1]), [1 + 2.04, 1 + 6.12, 4, 1])
    # r = 0.2, alpha = 1: 1.2
    assert equals(merge(ramplus_tl, models, [1, 1, 1, 1], r=0.2, alpha=1.0), [3.4, 8.2, 4, 1])


def test_ratios_are_each_models_own():
    # the first model shares 1 change and has 4 of its own, the second shares 1 and has 1
    first, second = torch.tensor([1.0, 1, 1, 1, 1, 0]), torch.tensor([1.0, 0, 0, 0, 0, 1])
    out = merge(ramplus_tl, [first, second], torch.zeros(6), r=1.0, alpha=1.0)
    assert equals(out, [1, 1.25, 1.25, 1.25, 1.25, 2])


def test_small_changes_count_as_none():
    assert equals(merge(ram, [[0.5, 2.0], [0.75, 4.0]], [0.0, 0.0], epsilon=0.5), [0.75, 3])
    assert torch.equal(merge(ram, [[1e-6]], [0.0]), torch.zeros(1))


def test_one_model_comes_back():
    base, model = normal(20, seed=1), normal(20, seed=2)
    assert equals(merge(ram, [model], base), model)
    assert equals(merge(ramplus_tl, [model], base), model)


def test_disjoint_changes_are_added():
    a, b = torch.zeros(10), torch.zeros(10)
    a[:5], b[5:] = normal(5, seed=1), normal(5, seed=2)
    for method in (ram, ramplus_tl):
        assert equals(merge(method, [a, b], torch.zeros(10)), a + b)


def test_without_strength_ramplus_is_ram():
    models, base = [normal(50, seed=seed) for seed in (1, 2, 3)], normal(50, seed=4)
    sparse = [torch.where(normal(50, seed=9 + i) > 0, model, base) for i, model in enumerate(models)]
    assert equals(merge(ramplus_tl, sparse, base, r=0.0), merge(ram, sparse, base))


def test_epsilon_bounds_a_magnitude():
    for method in (ram, ramplus_tl):
        with pytest.raises(RecipeError, match="epsilon is -1"):
            merge(method, [[1.0]], [0.0], epsilon=-1.0)
