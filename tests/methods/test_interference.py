"""The shared solver of the family of quadratic interference."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.kernels.spectral import framed
from mergery.methods._adam import descend
from mergery.methods._interference import Interference, beginning, interference, rows_as_inputs
from mergery.testing.reference import quadratic

from .merging import equals, factors, normal, task_vectors

Problem = tuple[list[torch.Tensor], list[torch.Tensor]]


@st.composite
def problems(draw) -> Problem:
    """Targets, and other matrices that stand for their inputs, of any number of rows and of any rank."""
    out, into = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    targets, probes = [], []
    for index in range(draw(st.integers(1, 4))):
        seed = draw(st.integers(0, 10_000)) * 10 + index
        rows = draw(st.integers(1, 9))
        rank = draw(st.integers(1, min(rows, into)))
        targets.append(normal(out, into, seed=seed).double())
        left, right = normal(rows, rank, seed=seed + 20_000), normal(rank, into, seed=seed + 40_000)
        probes.append(left.double() @ right.double())
    return targets, probes


def dense(problem: Interference) -> np.ndarray:
    return (problem.solution() @ problem.basis).numpy()


def terms(targets, probes) -> quadratic.Terms:
    return [(1.0, target.numpy(), probe.numpy()) for target, probe in zip(targets, probes, strict=True)]


def well_posed(targets, probes) -> bool:
    """Whether no direction is so faint that the pseudo-inverse of C in float64 says nothing of it."""
    size = np.linalg.svd(np.concatenate([probe.numpy() for probe in probes]), compute_uv=False)
    return bool(np.all((size > 1e-3 * size[0]) | (size < 1e-9 * size[0])))


def test_by_hand():
    # task 1 wants 2 of an input of length 1, task 2 wants 5 of one of length 2: (1 * 2 + 4 * 5) / (1 + 4)
    targets, probes = [torch.tensor([[2.0, 9.0]]), torch.tensor([[5.0, 9.0]])], [[[1.0, 0.0]], [[2.0, 0.0]]]
    problem = interference(targets, [torch.tensor(probe) for probe in probes])
    assert equals(problem.values[:1], [5.0])
    assert equals(problem.solution() @ problem.basis, [[4.4, 0.0]])


@settings(max_examples=60)
@given(problems())
def test_the_solution_is_that_of_the_pseudo_inverse(problem):
    if well_posed(*problem):
        wanted = quadratic.minimum(terms(*problem))
        assert equals(torch.from_numpy(dense(interference(*problem))), wanted, 1e-8)


@settings(max_examples=60)
@given(problems())
def test_the_loss_has_no_slope_at_the_solution(problem):
    solution = dense(interference(*problem))
    steep = np.abs(quadratic.gradient(np.zeros_like(solution), terms(*problem))).max()
    assert np.abs(quadratic.gradient(solution, terms(*problem))).max() <= 1e-9 * steep


def test_eigenvalues_are_those_of_the_summed_covariance():
    deltas = [normal(5, 8, seed=seed) for seed in range(2)]
    problem = interference(deltas, rows_as_inputs(deltas, [1.0, 3.0]))
    wide = [delta.double().numpy() for delta in deltas]
    values, vectors = np.linalg.eigh(sum(w * d.T @ d / (d**2).sum() for w, d in zip([1, 3], wide, strict=True)))
    assert equals(problem.values, values[::-1].copy())
    assert np.allclose(np.abs(problem.basis.numpy() @ vectors[:, ::-1]), np.eye(8), atol=1e-6)
    assert equals(problem.values.sum(), 4.0)


def test_inputs_of_a_task_vector_of_zeros_are_none():
    deltas = [normal(2, 3, seed=1), torch.zeros(2, 3)]
    one, zero = rows_as_inputs(deltas, [4.0, 4.0])
    assert equals(one.norm(), 2.0)
    assert not zero.any()


def test_a_problem_without_inputs_has_the_solution_zero():
    zeros = [torch.zeros(3, 4)] * 2
    problem = interference(zeros, zeros)
    assert not (problem.solution() @ problem.basis).any()


def test_matrices_of_a_stack_are_problems_of_their_own():
    targets = [normal(3, 4, 5, seed=seed) for seed in range(2)]
    together = interference(targets, targets)
    for place in range(3):
        own = [target[place] for target in targets]
        alone = interference(own, own)
        assert equals(together.solution()[place] @ together.basis[place], alone.solution() @ alone.basis, 1e-9)


def test_low_rank_cores_solve_the_full_problem():
    pairs = factors(10, 13)
    deltas = [pair.left.double() @ pair.right.double() for pair in pairs]
    full = interference(deltas, rows_as_inputs(deltas, [1, 2, 3]))
    cores, frame = framed(pairs)
    assert frame.left is not None
    assert frame.right is not None
    small = interference(cores, rows_as_inputs(cores, [1, 2, 3]))
    assert len(small.values) == 6
    assert equals(small.values, full.values[:6], 1e-9)
    lifted = small.lifted(frame)
    assert equals(lifted.solution() @ lifted.basis, full.solution() @ full.basis, 1e-9)
    restored = frame.restore(small.solution() @ small.basis)
    assert equals(restored.dense(), full.solution() @ full.basis)
    assert equals(frame.full(cores[0]), deltas[0], 1e-9)


def test_the_beginning():
    deltas = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -4.0]])]
    assert equals(beginning(deltas, "sum"), [[4, -2]])
    assert equals(beginning(deltas, "mean"), [[2, -1]])


@settings(max_examples=20)
@given(task_vectors())
def test_adam_takes_the_steps_of_adam_in_float64(deltas):
    # long steps, from far away: nothing is near its end, where rounding decides
    wide = [delta.double().numpy() for delta in deltas]
    own = quadratic.own_rows(wide, [1.0] * len(wide))
    problem = interference(deltas, rows_as_inputs(deltas, [1.0] * len(deltas)))
    start = beginning(deltas, "sum") + 10.0
    assert equals(descend(problem, start, 12, 0.05), quadratic.adam(start.numpy(), own, 12, 0.05), 1e-5)


def test_adam_stays_where_nothing_pulls():
    deltas = [normal(6, 9, seed=1)]
    problem = interference(deltas, rows_as_inputs(deltas, [1.0]))
    start = deltas[0].double()
    assert torch.equal(descend(problem, start, 50, 0.1), start)
