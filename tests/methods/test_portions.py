"""Task vectors averaged by their portions of the inputs."""

import pytest
import torch

from mergery.kernels.symmetric import eigh
from mergery.methods._own_rows import in_inputs
from mergery.methods._portions import averaged, inverted, sturdy, suited
from mergery.methods.actmat import actmat

from .merging import equals, merge, normal


def squares_of(deltas: list[torch.Tensor]) -> list[torch.Tensor]:
    return [delta.mT @ delta for delta in deltas]


def test_by_hand():
    # the first input is the first task's alone, the second is shared as 1 to 4: 2, and (1 * 1 + 4 * 2) / 5
    deltas = [torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])]
    squares = squares_of(deltas)
    inverse = torch.linalg.inv(squares[0] + squares[1])
    start = (deltas[0] + deltas[1]) / 2
    rest = torch.zeros(2, 0)
    for centred in (True, False):
        found = averaged(start, deltas, squares, inverse, rest, centred=centred)
        assert equals(found, [[2.0, 0.0], [0.0, (1.0 * 1.0 + 4.0 * 2.0) / 5.0]])


def test_what_does_not_count_is_lifted_and_taken_out_again():
    wide = normal(40, 24)
    matrix = (wide.mT @ wide).float()
    values, vectors = eigh(matrix)
    inverse = inverted(matrix, vectors[:, 16:].float(), values[16:])
    assert inverse is not None
    assert equals(inverse, vectors[:, :16] / values[:16] @ vectors[:, :16].mT, 1e-5)


def test_the_minimum_without_some_directions_is_that_of_the_pseudo_inverse():
    deltas = [normal(30, 20, seed=seed).float() for seed in range(3)]
    squares = squares_of(deltas)
    matrix = squares[0] + squares[1] + squares[2]
    values, vectors = eigh(matrix)
    rest = vectors[:, 14:].float()
    inverse = inverted(matrix, rest, values[14:])
    assert inverse is not None
    aim = sum((delta @ square for delta, square in zip(deltas, squares, strict=True)), torch.zeros(30, 20))
    wanted = aim.double() @ (vectors[:, :14] / values[:14]) @ vectors[:, :14].mT
    start = (deltas[0] + deltas[1] + deltas[2]) / 3
    assert equals(averaged(start, deltas, squares, inverse, rest, centred=True), wanted, 1e-5)


def test_where_rounding_would_be_seen_there_is_none():
    turn = torch.linalg.qr(normal(64, 64)).Q
    for least, there in ((1e-2, True), (1e-7, False)):
        matrix = (turn * torch.logspace(0, torch.tensor(least).log10().item(), 64)) @ turn.mT
        assert (inverted(matrix, matrix[:, :0], matrix[0, :0]) is not None) == there, least


def test_they_are_for_one_tall_matrix_in_float32_most_of_whose_directions_count():
    matrix = torch.eye(8)
    assert suited(matrix, 4, 12)
    assert not suited(matrix, 4, 11)
    assert not suited(matrix, 3, 12)
    assert not suited(matrix.double(), 8, 12)
    assert not suited(torch.stack([matrix] * 2), 8, 12)


def test_a_root_is_sturdy_where_its_steps_are_of_one_size():
    assert sturdy(torch.diag(torch.tensor([1.0, 0.5])))
    assert not sturdy(torch.diag(torch.tensor([1.0, 0.1])))


@pytest.mark.parametrize("count", [300, 100])
def test_with_many_or_few_directions_float32_is_as_good(count):
    """Many are averaged by portions, few are written anew in their own coordinates."""
    fall = torch.arange(1, 513) ** (-0.5 if count == 300 else -1.0)
    make = [normal(800, 512, seed=2 * task) * fall @ normal(512, 512, seed=2 * task + 1) for task in range(4)]
    deltas, zero = [make[0] + own for own in make[1:]], torch.zeros(800, 512)
    shares = [torch.ones(1, 1)] * 3
    problem = in_inputs(sum(deltas[1:], deltas[0]) / 3, deltas, shares, centred=True)
    values = eigh(problem.matrix)[0]
    cut = float(values[count - 1] * values[count]) ** 0.5 / float(values[0])
    assert suited(problem.matrix, count, 800) == (count == 300)
    fast, exact = (merge(actmat, deltas, zero, cut=cut, precision=precision) for precision in ("fast", "exact"))
    assert equals(fast, exact, 1e-5)
