import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import RecipeError
from mergery.kernels.spectral import Factored
from mergery.methods.knots import knots
from mergery.methods.task_arithmetic import task_arithmetic
from mergery.methods.ties import ties

from .hard_cases import consensus, hard_cases
from .matrices import apart, diagonal, of_rank, orthonormal, rank
from .merging import equals, merge, normal, suite
from .small_models import EMBED, LINEAR, by_recipe, mean, of_models

CASES = [
    {"density": 0.5}, {"density": 1.0, "across": "output"}, {"host": "linear", "normalize": False},
    {"host": "dare_ties", "density": 0.6}, {"host": "dare_ties", "across": "output", "normalize": False, "scale": 0.7},
]  # fmt: skip


@suite(knots)
def test_conformance(check):
    check()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conformance_of_hosts(case):
    consensus(knots, **case)


@hard_cases(knots)
def test_hard_cases(case):
    case()


@hard_cases(knots, host="linear", across="output")
def test_hard_cases_of_the_other_side(case):
    case()


@hard_cases(knots, host="dare_ties", density=0.6)
def test_hard_cases_of_dropping(case):
    case()


def test_by_hand():
    # side by side their rows (3, 0, -1, 0) and (0, 1, 0, 2) are at right angles: they are in the basis already
    models, zero = [diagonal(3, 1), diagonal(-1, 2)], torch.zeros(2, 2)
    assert equals(merge(knots, models, zero, density=1.0), diagonal(3, 1.5))
    assert equals(merge(knots, models, zero, density=0.25), diagonal(3, 2))  # one entry of each
    assert equals(merge(knots, models, zero, density=1.0, normalize=False, scale=0.5), diagonal(1.5, 1.5))


def test_it_elects_in_the_basis_and_not_among_the_entries():
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]])  # of the basis in which the tasks share no entry
    models, zero = [turn @ diagonal(3, 1), turn @ torch.tensor([[0.0, -1.0], [2.0, 0.0]])], torch.zeros(2, 2)
    expected = turn @ torch.tensor([[3.0, -1.0], [2.0, 1.0]])
    assert equals(merge(knots, models, zero, density=1.0), expected)
    assert equals(merge(knots, models, zero, density=1.0, host="dare_ties"), expected)
    # entry by entry: 3 of 3 - 2, the mean of 3 and 2, 1 of 1 - 1
    assert equals(merge(ties, models, zero, density=1.0), [[3, -1], [2.5, 1]])


@settings(max_examples=30)
@given(
    st.integers(1, 4), st.integers(1, 10), st.integers(1, 10), st.sampled_from(["input", "output"]),
    st.booleans(), st.integers(0, 1000), st.sampled_from([1.0, 1e-6]),
)  # fmt: skip
def test_with_a_linear_host_it_is_task_arithmetic(k, out, into, across, normalize, seed, size):
    deltas, zero = [normal(out, into, seed=seed + task) * size for task in range(k)], torch.zeros(out, into)
    own = {"weight": [1.0 + task for task in range(k)], "normalize": normalize}
    mine = merge(knots, deltas, zero, host="linear", across=across, **own)
    assert equals(mine, merge(task_arithmetic, deltas, zero, **own), 2e-6 * k)


@settings(max_examples=30)
@given(st.integers(1, 10), st.integers(1, 10), st.sampled_from(["input", "output"]), st.integers(0, 1000))
def test_one_model_and_many_of_it_come_back(out, into, across, seed):
    delta, zero = normal(out, into, seed=seed), torch.zeros(out, into)
    for k in (1, 3):
        assert equals(merge(knots, [delta] * k, zero, density=1.0, across=across), delta, 2e-6)
    assert equals(merge(knots, [delta], zero, host="dare_ties", density=1.0, across=across), delta, 2e-6)


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from(["ties", "dare_ties"]), st.integers(0, 1000))
def test_orthogonal_tasks_are_summed(k, own, host, seed):
    """In their basis no two tasks have an entry in common, and rounding makes none."""
    deltas = apart(k, own, k * own + seed % 4, k * own + seed % 3, seed)
    zero = torch.zeros_like(deltas[0])
    for across in ("input", "output"):
        assert equals(merge(knots, deltas, zero, host=host, density=1.0, across=across), sum(deltas), 2e-6)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(["input", "output"]))
def test_the_sides_are_told_apart_by_across(seed, across):
    deltas, zero = [normal(7, 5, seed=seed + task) for task in range(3)], torch.zeros(7, 5)
    other = {"input": "output", "output": "input"}[across]
    out = merge(knots, [delta.mT for delta in deltas], zero.mT, across=other)
    assert equals(merge(knots, deltas, zero, across=across), out.mT, 2e-6)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_turned_outputs_give_the_turned_result(seed):
    deltas, zero = [normal(8, 6, seed=seed + task).double() for task in range(3)], torch.zeros(8, 6)
    turn = orthonormal(8, 8, seed)
    out = turn @ merge(knots, deltas, zero, density=1.0).double()
    assert equals(merge(knots, [turn @ delta for delta in deltas], zero, density=1.0), out, 1e-4)


def test_the_factors_of_an_adapter_may_be_others_of_the_same_product():
    factors = [of_rank(2, 12, 16, seed) for seed in (0, 10)]
    gauge = torch.tensor([[2.0, 1.0], [0.0, 0.5]])
    others = [Factored(each.left @ gauge, torch.linalg.inv(gauge) @ each.right) for each in factors]
    assert equals(knots(others).dense(), knots(factors).dense(), 1e-5)


def test_dropped_coordinates():
    """Of one model each coordinate is dropped or divided by the share that is kept; the same ones for one seed."""
    delta, zero = diagonal(3, 2, 1), torch.zeros(3, 3)
    seen = set()
    for seed in range(20):
        out = merge(knots, [delta], zero, host="dare_ties", density=0.5, seed=seed)
        assert torch.equal(out, merge(knots, [delta], zero, host="dare_ties", density=0.5, seed=seed))
        kept = out.diagonal() != 0
        assert equals(out, 2 * delta * kept) or not kept.any()
        seen.add(tuple(kept.tolist()))
    assert len(seen) > 4
    assert torch.equal(merge(knots, [delta], zero, host="dare_ties", density=0.0), zero)


def test_a_task_that_changed_nothing_takes_no_part():
    delta, zero = normal(7, 5), torch.zeros(7, 5)
    assert equals(merge(knots, [delta, zero], zero, density=1.0), delta, 2e-6)
    assert equals(merge(knots, [delta, zero], zero, host="linear"), delta / 2, 2e-6)


def test_no_direction_is_made_up():
    deltas = [of_rank(2, 12, 16, seed).dense() for seed in (0, 10)]
    for across in ("input", "output"):
        assert rank(merge(knots, deltas, torch.zeros(12, 16), across=across)) <= 4


def test_weights_that_cannot_be_normalized():
    with pytest.raises(RecipeError, match="the weights sum to zero"):
        merge(knots, [diagonal(1, 2)] * 2, torch.zeros(2, 2), weight=[1.0, -1.0])


def test_the_papers_scale_and_where_it_works():
    paper, usual = by_recipe(knots, preset="paper"), by_recipe(knots)
    assert equals(usual[LINEAR], of_models(knots, LINEAR, scale=1.0))
    assert equals(paper[LINEAR], of_models(knots, LINEAR, scale=0.6, density=0.2))
    assert equals(paper[EMBED], mean(EMBED)) and equals(usual[EMBED], mean(EMBED))
