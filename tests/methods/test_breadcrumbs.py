"""breadcrumbs and breadcrumbs_ties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.methods.breadcrumbs import breadcrumbs
from mergery.methods.breadcrumbs_ties import breadcrumbs_ties
from mergery.methods.task_arithmetic import task_arithmetic
from mergery.methods.ties import ties

from .merging import equals, merge, normal, suite


@suite(breadcrumbs)
def test_conformance(check):
    check()


@suite(breadcrumbs_ties)
def test_conformance_with_election(check):
    check()


@pytest.mark.parametrize("method", [breadcrumbs, breadcrumbs_ties], ids=["breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("scope", ["row", "tensor"])
def test_conformance_of_the_other_settings(method, scope):
    for own in ({"rescale": "l1", "normalize": True}, {"scale": 0.5, "normalize": False}):
        for check in suite(method, settings={"scope": scope, "density": 0.4, "gamma": 0.1, **own}).args[1]:
            check()


def test_by_hand():
    # ten entries: gamma 0.1 drops the 10, density 0.3 keeps 9, -8 and 7
    delta = torch.tensor([1.0, -2, 3, -4, 5, -6, 7, -8, 9, 10])
    for scope in ("row", "tensor"):
        out = merge(breadcrumbs, [delta], torch.zeros(10), density=0.3, gamma=0.1, scope=scope)
        assert equals(out, [0, 0, 0, 0, 0, 0, 7, -8, 9, 0])
    # rows by themselves, or the tensor at once: of 2 x 4 entries a quarter at the top is dropped, a quarter kept
    delta = torch.tensor([[1.0, 2, 3, 4], [50, 60, 70, 80]])
    out = merge(breadcrumbs, [delta], torch.zeros(2, 4), density=0.25, gamma=0.25)
    assert equals(out, [[0, 0, 3, 0], [0, 0, 70, 0]])
    out = merge(breadcrumbs, [delta], torch.zeros(2, 4), density=0.25, gamma=0.25, scope="tensor")
    assert equals(out, [[0, 0, 0, 0], [50, 60, 0, 0]])


def test_signs_are_elected():
    # 6 and 2 and -5: the sum is positive, the mean of those that agree 4; all of them sum to 3
    models = [[6.0], [2.0], [-5.0]]
    assert equals(merge(breadcrumbs_ties, models, [0.0]), [4.0])
    assert equals(merge(breadcrumbs_ties, models, [0.0], normalize=False), [8.0])
    assert equals(merge(breadcrumbs, models, [0.0], scale=1.0), [3.0])


@settings(max_examples=40)
@given(st.integers(1, 60), st.floats(0.01, 1), st.floats(0, 1), st.sampled_from(["row", "tensor"]))
def test_how_many_are_kept(n, density, gamma, scope):
    delta = torch.arange(1.0, n + 1)
    out = merge(breadcrumbs, [delta], torch.zeros(n), density=density, gamma=gamma, scope=scope)
    kept = max(1, math.floor(density * n))
    top = min(math.floor(gamma * n), n - kept)
    assert (out != 0).nonzero().reshape(-1).tolist() == list(range(n - top - kept, n - top))


def test_small_tensors_keep_something():
    # gamma 0.01 of 20 entries is none, and must not drop them all
    delta = normal(20)
    assert equals(merge(breadcrumbs, [delta], torch.zeros(20), density=1.0, gamma=0.01), delta)
    assert equals(merge(breadcrumbs, [[3.0]], [1.0]), [3.0])


def test_without_tails_it_is_task_arithmetic():
    models, base = [normal(5, 9, seed=seed) for seed in (1, 2)], normal(5, 9, seed=3)
    out = merge(breadcrumbs, models, base, density=1.0, gamma=0.5, scale=0.3)
    assert equals(out, merge(task_arithmetic, models, base, scale=0.3))


def test_without_outliers_it_is_trimming():
    models, base = [normal(5, 9, seed=seed) for seed in (1, 2)], normal(5, 9, seed=3)
    out = merge(breadcrumbs_ties, models, base, density=0.4, gamma=0.0, scope="tensor")
    assert equals(out, merge(ties, models, base, density=0.4))


@pytest.mark.parametrize("scope", ["row", "tensor"])
def test_l1_rescaling_keeps_the_sum_of_magnitudes(scope):
    delta = normal(20, 30)
    out = merge(breadcrumbs, [delta], torch.zeros(20, 30), rescale="l1", scope=scope)
    assert float(out.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)


def test_weights_that_sum_to_zero_cannot_be_normalized():
    with pytest.raises(RecipeError, match="the weights sum to zero"):
        merge(breadcrumbs, [[1.0], [2.0]], [0.0], weight=[1, -1], normalize=True)
