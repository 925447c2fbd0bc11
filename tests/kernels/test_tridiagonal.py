"""Eigenvectors by way of a tridiagonal matrix: LAPACK's, to rounding, and no more of them than are wanted."""

import threading
import time

import pytest
import torch

from mergery.kernels.tridiagonal import call, eigenvectors, scale


def symmetric(n: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    half = torch.randn(n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return (half @ half.mT).to(dtype)


def test_two_by_two_by_hand():
    """[[2, 1], [1, 2]] stretches (1, 1) threefold and leaves (1, -1)."""
    values, vectors = eigenvectors(torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64), 1)
    assert torch.allclose(values, torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert torch.allclose(vectors.abs(), torch.full((2, 1), 0.5**0.5, dtype=torch.float64))
    assert float(vectors[0] * vectors[1]) > 0.0


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("n", "count"), [(1, 1), (2, 2), (97, 30), (300, 1), (300, 300)])
def test_they_are_eigenvectors(n, count, dtype, near):
    matrix = symmetric(n, dtype)
    before = matrix.clone()
    values, vectors = eigenvectors(matrix, count)
    assert torch.equal(matrix, before)
    assert values.dtype == vectors.dtype == dtype and vectors.shape == (n, count)
    expected = torch.linalg.eigvalsh(matrix.double()).flip(0)
    assert torch.allclose(values.double(), expected, rtol=0.0, atol=near * float(expected[0]))
    assert torch.allclose(vectors.mT @ vectors, torch.eye(count, dtype=dtype), rtol=0.0, atol=near)
    assert float((matrix @ vectors - vectors * values[:count]).abs().max()) < near * float(expected[0])


def test_the_first_are_the_same_whether_or_not_more_are_wanted():
    matrix = symmetric(200)
    assert torch.allclose(eigenvectors(matrix, 20)[1], eigenvectors(matrix, 200)[1][:, :20], rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e30])
def test_squares_of_tiny_and_huge_entries_are_not_lost(size):
    matrix = symmetric(64).float() / 200.0
    values, vectors = eigenvectors(matrix * size, 64)
    assert torch.allclose(values / size, eigenvectors(matrix, 64)[0], rtol=1e-4, atol=1e-5)
    assert torch.allclose(vectors.mT @ vectors, torch.eye(64), rtol=0.0, atol=1e-5)


def test_nothing_and_what_is_diagonal():
    assert not eigenvectors(torch.zeros(40, 40), 3)[0].any()
    values, vectors = eigenvectors(torch.diag(torch.arange(5.0)), 2)
    assert values.tolist() == [4.0, 3.0, 2.0, 1.0, 0.0]
    assert vectors.abs().T.tolist() == [[0.0, 0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0, 0.0]]
    assert scale(torch.zeros(2, 2)) == 1.0 and scale(torch.tensor([[-3.0]])) == 4.0


def test_what_is_no_number_stays_none():
    assert eigenvectors(torch.full((30, 30), float("nan"), dtype=torch.float64), 3)[0].isnan().all()


def test_a_routine_that_fails_says_so():
    with pytest.raises(RuntimeError, match="dpotrf gives 2"):
        call("dpotrf", "L", 2, torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64), 2)


def test_other_threads_run_meanwhile():
    """A worker must not wait for another's decomposition: LAPACK runs without the interpreter's lock."""
    matrix, ticks, done = symmetric(900), [0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    before, began = ticks[0], time.monotonic()
    for _ in range(3):
        eigenvectors(matrix, 300)
    counted, milliseconds = ticks[0] - before, 1000 * (time.monotonic() - began)
    done.set()
    thread.join()
    assert counted > 0.03 * milliseconds  # with the lock held 0.01, on a machine with three times its load 0.2
