import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.methods.subspace_boosting import subspace_boosting
from mergery.methods.task_arithmetic import task_arithmetic

from .hard_cases import consensus, hard_cases
from .matrices import diagonal, of_rank, rank, spectrum
from .merging import equals, merge, normal, suite
from .small_models import LINEAR, by_recipe, of_models


@suite(subspace_boosting, settings={"scale": 1.0}, mirrored=True)
def test_conformance(check):
    check()


@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_conformance_of_other_levels(beta):
    consensus(subspace_boosting, beta=beta, scale=1.0)


@hard_cases(subspace_boosting)
def test_hard_cases(case):
    case()


@pytest.mark.parametrize(
    ("beta", "boosted"),
    [(0.0, (5, 5, 5)), (0.01, (5, 5, 5)), (0.6, (5, 3, 3)), (0.9, (5, 3, 2)), (1.0, (5, 3, 2))],
)
def test_by_hand(beta, boosted):
    # the sum is 10; 5 reaches 0.1, 5 + 3 reach 6
    out = merge(subspace_boosting, [diagonal(4, 3, 0), diagonal(1, 0, 2)], torch.zeros(3, 3), beta=beta, scale=1.0)
    assert equals(out, diagonal(*boosted))


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 14), st.integers(1, 14), st.integers(0, 1000))
def test_with_all_of_the_sum_nothing_is_raised(k, out, into, seed):
    """Whatever rounding does to the sum of singular values."""
    deltas, zero = [normal(out, into, seed=seed + task) for task in range(k)], torch.zeros(out, into)
    plain = merge(task_arithmetic, deltas, zero, scale=1.0)
    assert equals(merge(subspace_boosting, deltas, zero, beta=1.0, scale=1.0), plain)


@settings(max_examples=25)
@given(st.floats(0.0, 1.0), st.integers(0, 1000))
def test_nothing_sinks_and_nothing_rises_above_the_largest(beta, seed):
    deltas, zero = [of_rank(2, 9, 12, seed + 10 * task).dense() for task in range(3)], torch.zeros(9, 12)
    plain, raised = spectrum(sum(deltas)), spectrum(merge(subspace_boosting, deltas, zero, beta=beta, scale=1.0))
    assert (raised >= plain - 1e-5 * plain[0]).all()
    assert torch.allclose(raised[0], plain[0], rtol=1e-5)
    assert rank(merge(subspace_boosting, deltas, zero, beta=beta)) == 6  # what no task knows is not raised


def test_the_papers_scale():
    assert equals(by_recipe(subspace_boosting, preset="paper")[LINEAR], of_models(subspace_boosting, LINEAR, scale=1.0))
    assert equals(by_recipe(subspace_boosting)[LINEAR], of_models(subspace_boosting, LINEAR, scale="auto"))
