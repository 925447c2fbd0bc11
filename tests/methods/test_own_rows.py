"""The solver of least interference for task vectors whose rows are their own inputs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.kernels.symmetric import largest_eigenvalue
from mergery.methods._own_rows import OwnRows, in_inputs, in_rows, own_rows
from mergery.methods.ace import ace
from mergery.methods.actmat import actmat
from mergery.methods.swudi import swudi
from mergery.methods.swudi_a import swudi_a
from mergery.testing.reference import quadratic

from .merging import equals, merge, normal, task_vectors

WEIGHTS = st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=4, max_size=4).filter(lambda weight: weight[0] > 0.0)


def terms(deltas, weight, equal: bool) -> quadratic.Terms:
    wide = [delta.double().numpy() for delta in deltas]
    own = quadratic.own_rows(wide, weight)
    return own if equal else [(w, delta, delta) for w, delta in zip(weight, wide, strict=False)]


def flow(problem: OwnRows, share: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    moved = problem.flow(share)
    assert moved is not None
    return moved


def all_of(values: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(values)


def test_by_hand():
    # task 1 wants 2 of an input of length 2, task 2 wants 5 of one of length 5: (4 * 2 + 25 * 5) / (4 + 25)
    deltas = [torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0]])]
    aim = 133 / 29
    for start, there in (("mean", 3.5), ("sum", 7.0)):
        problem = own_rows(deltas, [1.0, 1.0], start, equal=False)
        assert equals(problem.start, [[there, 0.0]])
        assert equals(flow(problem, all_of), [[aim, 0.0]])
        # a tenth of the way
        assert equals(flow(problem, lambda values: 0.1 * torch.ones_like(values)), [[there + 0.1 * (aim - there), 0.0]])
        assert equals(problem.minimum(0.0), [[aim, 0.0]])


def test_a_task_of_weight_zero_is_part_of_the_start_alone():
    # the sum of 1 and 3 is where it begins; only the first has inputs, which want 1
    problem = own_rows([torch.tensor([[1.0]]), torch.tensor([[3.0]])], [0.5, 0.0], "sum", equal=False)
    assert equals(problem.start, [[4.0]])
    assert equals(flow(problem, all_of), [[1.0]])
    assert equals(flow(problem, lambda values: 0.5 * torch.ones_like(values)), [[2.5]])


@settings(max_examples=60)
@given(task_vectors(), WEIGHTS, st.booleans(), st.sampled_from(["mean", "sum"]))
def test_both_ways_to_write_the_problem_agree_with_the_pseudo_inverse(deltas, weight, equal, start):
    weight = weight[: len(deltas)]
    expected = terms(deltas, weight, equal)
    begin = quadratic.beginning([delta.double().numpy() for delta in deltas], start)
    share = 1.0 if start == "sum" else 1.0 / len(deltas)
    there = [index for index, factor in enumerate(weight) if factor > 0.0]
    wide = [deltas[i].double() for i in there]
    sizes = [float(delta.square().sum()) if equal else 1.0 for delta in wide]
    shares = [torch.full((1, 1), weight[i] / size, dtype=torch.float64) for i, size in zip(there, sizes, strict=True)]
    origin = torch.from_numpy(begin)
    whole = len(there) == len(deltas)
    written: dict[str, OwnRows] = {
        "chosen": own_rows(deltas, weight, start, equal=equal),
        "inputs": in_inputs(origin, wide, shares, centred=whole and start == "mean"),
        "rows": in_rows(origin, wide, shares, share * whole),
    }
    values = quadratic.spectrum(expected)[0]
    if any(1e-10 < value / values[0] < 1e-5 for value in values):
        return  # what is so faint is known to few digits
    for name, problem in written.items():
        halfway = quadratic.flow(begin, expected, lambda values: np.full(len(values), 0.5))
        assert equals(flow(problem, lambda values: torch.full_like(values, 0.5)), halfway, 1e-7), name
        assert equals(flow(problem, all_of), quadratic.flow(begin, expected, np.ones_like), 1e-7), name
        assert equals(problem.minimum(0.0), quadratic.minimum(expected), 1e-7), name
        cut = 0.3 * float(values[-1] / values[0])  # nothing is cut: by Cholesky in the inputs
        assert equals(problem.minimum(cut), quadratic.minimum(expected), 1e-7), name


@settings(max_examples=20)
@given(task_vectors(), st.floats(0.0, 20.0))
def test_flow_follows_the_slope(deltas, time):
    # dD/dt = R - (D - Z) C, in very small steps of Runge and Kutta
    problem = own_rows(deltas, [1.0] * len(deltas), "sum", equal=True)
    pull, whole = (torch.from_numpy(each) for each in quadratic.summed(terms(deltas, [1.0] * len(deltas), equal=True)))
    time /= float(torch.linalg.eigvalsh(whole)[-1])
    point, steps = problem.start, 150
    h = time / steps
    for _ in range(steps):
        a = pull - point @ whole
        b = pull - (point + h / 2 * a) @ whole
        c = pull - (point + h / 2 * b) @ whole
        d = pull - (point + h * c) @ whole
        point = point + h / 6 * (a + 2 * b + 2 * c + d)
    assert equals(flow(problem, lambda values: -(-time * values).expm1()), point.numpy(), 1e-4)


@pytest.mark.parametrize("shape", [(6, 40), (30, 20)])
def test_about_the_mean_tasks_that_agree_do_not_move(shape):
    delta = normal(*shape)
    problem = own_rows([delta] * 3, [1.0] * 3, "mean", equal=True)
    assert equals(flow(problem, all_of), delta, 1e-12)


def test_of_a_stack_each_matrix_is_a_problem_of_its_own():
    for shape in ((3, 4, 20), (3, 8, 6)):
        deltas = [normal(*shape, seed=seed) for seed in range(2)]
        together = own_rows(deltas, [1.0, 2.0], "mean", equal=True)
        for place in range(3):
            alone = own_rows([delta[place] for delta in deltas], [1.0, 2.0], "mean", equal=True)
            assert equals(flow(together, all_of)[place], flow(alone, all_of), 1e-9)
            assert equals(together.minimum(1e-3)[place], alone.minimum(1e-3), 1e-9)


def test_without_inputs_the_start_stays_and_the_minimum_is_zero():
    for shape in ((3, 4), (1, 9)):
        problem = own_rows([torch.zeros(shape)] * 2, [1.0, 1.0], "sum", equal=True)
        assert not flow(problem, all_of).any()
        assert not problem.minimum(0.0).any()
        assert not problem.minimum(1e-6).any()


def test_the_largest_eigenvalue():
    wide = normal(50, 30).double()
    assert float(largest_eigenvalue(wide.mT @ wide)) == pytest.approx(
        float(torch.linalg.matrix_norm(wide, 2)) ** 2, rel=0.02
    )
    assert not largest_eigenvalue(torch.zeros(4, 4).double()).any()


def large(k: int, out: int, into: int) -> list[torch.Tensor]:
    """Task vectors of a language model's kind: half of each is common, singular values fall like the root of their place."""
    fall = torch.arange(1, min(out, into) + 1) ** -0.5
    make = [
        normal(out, len(fall), seed=2 * task) * fall @ normal(len(fall), into, seed=2 * task + 1)
        for task in range(k + 1)
    ]
    return [make[0] + own for own in make[1:]]


@pytest.mark.parametrize("shape", [(520, 520), (200, 700), (900, 512)])
@pytest.mark.parametrize("method", [swudi, swudi_a, ace, actmat])
def test_products_in_float32_change_little(method, shape):
    deltas, zero = large(3, *shape), torch.zeros(shape)
    fast, exact = (merge(method, deltas, zero, precision=precision) for precision in ("fast", "exact"))
    assert equals(fast, exact, 1e-5)
    assert torch.equal(fast, exact) == (
        method in (ace, actmat) and shape[0] * 3 < shape[1]
    )  # which is made in float64 there


@pytest.mark.parametrize("shape", [(520, 520), (200, 700), (900, 512)])
def test_a_cut_among_eigenvectors_in_float32_changes_little(shape):
    """Where about half of them count as zero, the others are divided by eigenvalues of a thousandth."""
    deltas, zero = large(3, *shape), torch.zeros(shape)
    fast, exact = (merge(actmat, deltas, zero, cut=4e-3, precision=precision) for precision in ("fast", "exact"))
    assert not torch.equal(fast, exact)
    assert equals(fast, exact, 1e-5)


@pytest.mark.parametrize("method", [swudi, swudi_a, ace])
def test_where_they_would_be_seen_all_is_made_in_float64(method):
    zero = torch.zeros(520, 520)
    deltas = [normal(520, 2, seed=2 * task) @ normal(2, 520, seed=2 * task + 1) for task in range(3)]
    assert torch.equal(merge(method, deltas, zero), merge(method, deltas, zero, precision="exact"))
