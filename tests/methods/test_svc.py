import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.svc import svc

from .hard_cases import hard_cases
from .matrices import diagonal, spectrum
from .merging import equals, merge, normal, preset, suite
from .small_models import EMBED, NORM, by_recipe, mean, of_models


@suite(svc, fixed_point={})
def test_conformance(check):
    check()


@suite(svc, settings={"alpha": None, "scale": 0.5})
def test_conformance_with_the_papers_bound(check):
    check()


@hard_cases(svc)
def test_hard_cases(case):
    case()


def test_by_hand():
    # the first output's answer is 2 + 4 = 6, three times task 1's own and 1.5 times task 2's: 6 * 2 / (3 + 1.5)
    # only task 2 answers with the second output: its own 1, and alpha for the other, 2 / (alpha + 1)
    zero, plain = torch.zeros(2, 2), {"scale": 1.0}
    models = [diagonal(2, 0), diagonal(4, 1)]
    assert equals(merge(svc, models, zero, **plain), diagonal(6 * 2 / 4.5, 1))
    assert equals(merge(svc, models, zero, alpha=0.25, **plain), diagonal(6 * 2 / 4.5, 2 / 1.25))
    assert equals(merge(svc, models, zero, alpha=None, **plain), diagonal(6 * 2 / 4.5, 2 / 1.5))
    # in half the sum the second counts 0.5: bounded by 1 nothing is enlarged
    assert equals(merge(svc, models, zero, weight=0.5, **plain), diagonal(3 * 2 / 2.5, 0.5))


@settings(max_examples=12)
@given(st.integers(1, 6), st.integers(0, 1000), st.sampled_from([1.0, 1e-6]), st.sampled_from([0.1, 1.0]))
def test_what_all_share_is_counted_once(k, seed, size, alpha):
    delta = normal(4, 6, seed=seed) * size
    assert equals(merge(svc, [delta] * k, torch.zeros(4, 6), alpha=alpha), delta, 1e-5)


@settings(max_examples=12)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 1000))
def test_tasks_that_share_nothing_are_summed(k, size, seed):
    # each has outputs and inputs of its own
    deltas = [torch.zeros(k * size + 1, k * size + 2) for _ in range(k)]
    for task, delta in enumerate(deltas):
        own = slice(task * size, (task + 1) * size)
        delta[own, own] = normal(size, size, seed=seed + task)
    assert equals(merge(svc, deltas, torch.zeros_like(deltas[0])), sum(deltas), 1e-5)


@settings(max_examples=12)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_alpha_1_enlarges_no_direction_and_turns_none(k, seed):
    deltas = [normal(5, 7, seed=seed + place) for place in range(k)]
    zero = torch.zeros(5, 7)
    out, plain = merge(svc, deltas, zero, scale=1.0).double(), torch.stack(deltas).double().sum(0)
    assert bool((spectrum(out) <= spectrum(plain) * (1 + 1e-5)).all())
    u, _, vh = torch.linalg.svd(plain, full_matrices=False)
    inside = u.mT @ out @ vh.mT
    assert equals(inside, torch.diag(inside.diagonal()), 1e-5)
    assert bool((merge(svc, deltas, zero, alpha=0.5, scale=1.0).double().norm() >= out.norm() * (1 - 1e-6)).all())


def test_the_papers_choices():
    assert preset(svc, "paper") == {"weight": 0.3, "alpha": None, "scale": 1.0}
    out = by_recipe(svc, preset="paper")
    assert equals(out[EMBED], of_models(svc, EMBED, weight=0.3, alpha=None, scale=1.0))
    assert equals(out[NORM], mean(NORM))
    assert equals(by_recipe(svc)[EMBED], mean(EMBED))


@pytest.mark.parametrize("alpha", [0.0, -0.5])
def test_alpha_is_positive(alpha):
    with pytest.raises(RecipeError, match="alpha must be positive"):
        merge(svc, [normal(2, 2)], torch.zeros(2, 2), alpha=alpha)
