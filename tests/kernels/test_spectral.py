"""Linear algebra of task vectors against numpy's direct decompositions in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.kernels.spectral import (
    Factored,
    Frame,
    cleared,
    dense,
    flat_level,
    framed,
    largest,
    levelled,
    norm,
    polar,
    rank,
    svd,
    total,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_rank(rank: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Exact in float64: small whole numbers."""
    left, right = normal(*shape[:-1], rank, seed=seed), normal(*shape[:-2], rank, shape[-1], seed=seed + 1)
    return (left * 8).round().double() @ (right * 8).round().double()


def with_spectrum(s: list[float], m: int, n: int) -> torch.Tensor:
    u, v = torch.linalg.qr(normal(m, len(s)).double()).Q, torch.linalg.qr(normal(n, len(s), seed=1).double()).Q
    return u * torch.tensor(s, dtype=torch.float64) @ v.mT


MATRICES = {
    "tall": normal(40, 12),
    "wide": normal(12, 40),
    "square": normal(21, 21),
    "one entry": torch.tensor([[-3.0]]),
    "one row": normal(1, 9),
    "low rank": of_rank(3, 30, 20),
    "zero": torch.zeros(6, 4),
    "duplicated": normal(14, 5).repeat(1, 3),
    "tiny": normal(17, 23) * 1e-6,
    "tiny and of low rank": of_rank(2, 17, 23) * 1e-9,
    "faint": with_spectrum([1.0, 0.1, 1e-3, 1e-4, 3e-5, 3e-6], 31, 19),
    "stack": normal(4, 9, 6),
    "stack of ranks": torch.stack([of_rank(2, 8, 11), torch.zeros(8, 11, dtype=torch.float64), of_rank(8, 8, 11)]),
    "stack of stacks": normal(2, 3, 5, 7),
}


@pytest.mark.parametrize("name", MATRICES)
def test_singular_values_and_vectors(name):
    matrix = MATRICES[name]
    u, s, vh = svd(matrix)
    wide = matrix.double().numpy()
    expected = np.linalg.svd(wide, compute_uv=False)
    kept = expected > 1e-6 * expected[..., :1]
    first = expected[..., :1]
    assert u.dtype == s.dtype == vh.dtype == torch.float64
    assert (np.abs(s.numpy() - np.where(kept, expected, 0.0)) <= 1e-10 * first).all()
    assert (np.abs((u * s.unsqueeze(-2) @ vh).numpy() - wide) <= 1e-10 * first[..., None]).all()
    assert (rank(s).numpy() == kept.sum(-1)).all()
    unit = np.eye(kept.shape[-1]) * kept[..., None, :]
    assert np.abs((u.mT @ u).numpy() - unit).max() < 1e-8
    assert np.abs((vh @ vh.mT).numpy() - unit).max() < 1e-8


def test_what_is_numerically_zero_is_exactly_zero():
    u, s, vh = svd(MATRICES["low rank"])
    assert not s[3:].any() and not u[:, 3:].any() and not vh[3:].any()
    assert s[:3].all()
    assert not any(part.any() for part in svd(torch.zeros(5, 3)))


@pytest.mark.parametrize("name", ["tall", "wide", "low rank", "stack"])
@pytest.mark.parametrize("top", [1, 4, 100])
def test_the_leading_ones_are_the_first_of_all(name, top):
    for part, whole, side in zip(svd(MATRICES[name], top), svd(MATRICES[name]), (-1, -1, -2), strict=True):
        count = min(top, *MATRICES[name].shape[-2:])
        assert part.shape[side] == count
        assert torch.allclose(part, whole.narrow(side, 0, count), rtol=0, atol=1e-10)


def test_what_rounding_leaves_of_a_difference_is_zero():
    matrix = normal(12, 9).double()
    left = matrix * (1 + 1e-12) - matrix
    assert rank(svd(left)[1]) == 9  # its own singular values tell nothing
    assert rank(svd(left, of=norm(matrix)[..., 0, 0])[1]) == 0
    assert not polar(left, of=norm(matrix)[..., 0, 0]).any()


# --- the polar factor ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tall", "wide", "square", "tiny", "stack"])
def test_the_polar_factor(name):
    matrix = MATRICES[name]
    u, _, vh = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    factor = polar(matrix)
    assert np.abs(factor.numpy() - u @ vh).max() < 1e-9
    assert torch.allclose(polar(factor), factor, atol=1e-9)
    tall = factor if factor.shape[-2] >= factor.shape[-1] else factor.mT
    assert torch.allclose(tall.mT @ tall, torch.eye(tall.shape[-1], dtype=torch.float64), atol=1e-9)


@pytest.mark.parametrize("shape", [(60, 60), (70, 60), (60, 70)])
def test_directions_hardly_there_have_as_exact_a_polar_factor_as_others(shape):
    """The last singular values are 2e-6 to 8e-6 of the first, whose squares float64 hardly tells from each other."""
    generator, k = torch.Generator().manual_seed(0), min(shape)
    u, v = (torch.linalg.qr(torch.randn(side, k, generator=generator, dtype=torch.float64)).Q for side in shape)
    size = torch.logspace(0, -3, k, dtype=torch.float64)
    size[-4:] = torch.tensor([8e-6, 5e-6, 3e-6, 2e-6])
    found, s = levelled((u * size) @ v.mT)
    assert torch.allclose(found, u @ v.mT, rtol=0.0, atol=1e-9)
    assert torch.allclose(s.sort(descending=True).values, size, rtol=1e-7, atol=0.0)


def test_the_other_formula_of_the_polar_factor():
    """U (U^T U)^-1/2, on columns of length one."""
    columns = torch.nn.functional.normalize(normal(30, 8).double(), dim=0)
    values, vectors = torch.linalg.eigh(columns.mT @ columns)
    assert torch.allclose(polar(columns), columns @ (vectors / values.sqrt()) @ vectors.mT, atol=1e-10)


def test_the_polar_factor_of_dependent_columns_spans_no_more_than_they_do():
    column = normal(10, 1).double()
    unit = column / column.norm()
    assert torch.allclose(polar(torch.cat([column, column], dim=1)), unit.repeat(1, 2) / math.sqrt(2), atol=1e-12)
    assert not polar(torch.zeros(4, 3)).any()


# --- choices ------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.data())
def test_the_largest_entries_are_those_that_sorting_finds(data):
    """Among few values, so that many tie; of a stack each with its own count."""
    count, m, n = (data.draw(st.integers(1, most)) for most in (3, 5, 6))
    values = st.lists(st.integers(-3, 3), min_size=count * m * n, max_size=count * m * n)
    matrix = torch.tensor(data.draw(values), dtype=torch.float64).reshape(count, m, n)
    share = data.draw(st.sampled_from([0.0, 0.001, 0.25, 0.5, 1.0]))
    among = torch.tensor(data.draw(st.lists(st.integers(0, m * n), min_size=count, max_size=count)))
    out = largest(matrix, share, among)
    for each, kept, own in zip(matrix, out, among, strict=True):
        ordered = sorted(each.abs().flatten().tolist(), reverse=True)
        least = ordered[max(1, int(share * own)) - 1] if share else math.inf
        assert torch.equal(kept, torch.where(each.abs() >= least, each, 0.0))


def test_entries_that_rounding_keeps_from_a_tie_tie():
    matrix = torch.tensor([[1.0, 1.0 + 1e-15, 1.0 - 1e-8]], dtype=torch.float64)
    assert (largest(matrix, 0.3, torch.tensor(3)) != 0.0).tolist() == [[True, True, False]]


def test_what_rounding_leaves_of_an_entry_is_no_entry():
    matrix = torch.tensor([[[2.0, -1e-15], [1e-5, -1.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    assert cleared(matrix).tolist() == [[[2.0, 0.0], [1e-5, -1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert cleared(torch.zeros(2, 0)).shape == (2, 0)


def test_the_level_of_a_spectrum_is_the_mean_of_what_is_there():
    s = torch.tensor([[4.0, 2.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert flat_level(s).tolist() == [[3.0], [0.0]]


def test_sums_and_norms():
    assert total([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0]])], [2, -1]).tolist() == [[-1.0, 4.0]]
    assert norm(torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])).tolist() == [[[5.0]], [[0.0]]]


# --- low-rank factors ---------------------------------------------------------------------------------------------


def factored(m: int, n: int, rank: int, seed: int) -> Factored:
    return Factored(normal(m, rank, seed=seed), normal(rank, n, seed=seed + 1))


def test_a_product_and_its_parts():
    delta = Factored(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 0.0, -1.0]]))
    assert (delta.shape, delta.rank) == ((2, 3), 1)
    assert delta.dense().tolist() == [[3, 0, -1], [6, 0, -2]]
    assert (delta * 0.5).dense().tolist() == [[1.5, 0, -0.5], [3, 0, -1]]


@settings(max_examples=60)
@given(
    st.integers(1, 20), st.integers(1, 20), st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.booleans(), st.booleans(), st.integers(0, 1000),
)  # fmt: skip
def test_cores_in_their_frame_are_the_matrices(m, n, ranks, one_sided, ones, seed):
    deltas = [factored(m, n, rank, seed + 2 * i) for i, rank in enumerate(ranks)]
    cores, frame = framed(deltas, one_sided=one_sided, ones=ones)
    assert (frame.shape, frame.smaller) == ((m, n), min(m, n))
    small = sum(ranks) + ones < min(m, n)
    width = sum(ranks) + ones
    sides = (width if small else m, n if one_sided or not small else width)
    assert all(core.shape == sides for core in cores)
    for delta, core in zip(deltas, cores, strict=True):
        whole = core.double() if frame.left is None else frame.left @ core
        whole = whole if frame.right is None else whole @ frame.right.mT
        size = float(delta.dense().abs().max())
        assert torch.allclose(whole, delta.left.double() @ delta.right.double(), rtol=0, atol=1e-6 * size)
        there = min(m, n, width)
        assert torch.allclose(svd(core)[1][:there], svd(delta.dense())[1][:there], rtol=0, atol=1e-5 * size * m * n)
    u, s, vh = svd(cores[0])
    lifted = frame.lift(u * s.unsqueeze(-2), vh)
    assert isinstance(lifted, Factored) == small
    (again,) = dense([lifted])
    assert torch.allclose(again.float(), deltas[0].dense(), rtol=0, atol=2e-6 * float(deltas[0].dense().abs().max()))


@pytest.mark.parametrize("kind", ["factored", "dense"])
def test_a_frame_keeps_the_vectors_of_ones(kind):
    deltas = [factored(9, 12, 2, 0), factored(9, 12, 1, 5)]
    cores, frame = framed(deltas if kind == "factored" else dense(deltas), ones=True)
    for one, basis, size in zip(frame.ones(cores[0]), (frame.left, frame.right), (9, 12), strict=True):
        assert torch.allclose(one if basis is None else basis @ one, torch.ones(size, 1, dtype=torch.float64))


def test_factors_beside_dense_ones_are_multiplied_out():
    deltas = [factored(9, 12, 2, 0), normal(9, 12)]
    cores, frame = framed(deltas)
    assert frame == Frame((9, 12))
    assert torch.equal(cores[0], deltas[0].dense()) and cores[1] is deltas[1]


def test_the_cost_is_that_of_the_rank():
    """Stored whole, each of these matrices would take 80 gigabytes."""
    deltas = [factored(200_000, 100_000, 2, seed) for seed in (0, 10)]
    cores, frame = framed(deltas)
    assert [tuple(core.shape) for core in cores] == [(4, 4), (4, 4)]
    u, s, vh = svd(cores[0] + cores[1])
    lifted = frame.lift(u * s, vh)
    assert (lifted.shape, lifted.rank) == ((200_000, 100_000), 4)
    rows, columns = (torch.arange(0, size, size // 50) for size in lifted.shape)
    part = lifted.left[rows] @ lifted.right[:, columns]
    expected = sum(delta.left[rows].double() @ delta.right[:, columns].double() for delta in deltas)
    assert torch.allclose(part, expected, atol=1e-9)
