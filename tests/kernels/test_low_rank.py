"""Products of factors are merged without being multiplied out: the same, to float64, as if they were."""

from __future__ import annotations

import math

import pytest
import torch

from mergery.kernels.low_rank import Pair, best, core_space, kept, restored, shared_space

SIDES = [(20, 14), (6, 30), (4, 3)]


def pairs_of(m: int, n: int, *ranks: int, sizes: tuple[float, ...] = ()) -> list[Pair]:
    torch.manual_seed(0)
    made = [Pair(torch.randn(m, r, dtype=torch.float64), torch.randn(r, n, dtype=torch.float64)) for r in ranks]
    return [Pair(pair.left * size, pair.right) for pair, size in zip(made, sizes or [1.0] * len(made), strict=True)]


def dense(pair: Pair) -> torch.Tensor:
    return pair.left @ pair.right


@pytest.mark.parametrize("sides", SIDES)
def test_core_space_loses_nothing(sides: tuple[int, int]) -> None:
    pairs = pairs_of(*sides, 3, 2, 0)
    left, right, cores = core_space(pairs)
    assert left.shape[1] == min(5, sides[0]) and right.shape[0] == min(5, sides[1])
    torch.testing.assert_close(left.mT @ left, torch.eye(left.shape[1], dtype=torch.float64))
    for pair, core in zip(pairs, cores, strict=True):
        torch.testing.assert_close(left @ core @ right, dense(pair))


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_the_best_product_is_the_truncated_svd_of_the_sum(rank: int) -> None:
    pairs = pairs_of(20, 14, 3, 2)
    left, right, cores = core_space(pairs)
    pair, s = best(left, 0.5 * cores[0] - 2.0 * cores[1], right, rank)
    true = 0.5 * dense(pairs[0]) - 2.0 * dense(pairs[1])
    u, values, vh = torch.linalg.svd(true)
    torch.testing.assert_close(dense(pair), u[:, :rank] * values[:rank] @ vh[:rank])
    torch.testing.assert_close(s, values[: len(s)])
    torch.testing.assert_close(pair.left.norm(dim=0), pair.right.norm(dim=1))  # balanced


def test_a_shared_basis_of_enough_rank_is_core_space() -> None:
    pairs = pairs_of(20, 14, 3, 2)
    left, right, cores = shared_space(pairs, 5)
    for pair, core in zip(pairs, cores, strict=True):
        torch.testing.assert_close(left @ core @ right, dense(pair))


def test_a_shared_basis_keeps_small_adapters() -> None:
    """Of three adapters, one ten times as large, with spectra that fall as those of trained ones: cutting the sum keeps it."""
    fall = torch.tensor([1.0, 0.3, 0.1, 0.03], dtype=torch.float64)
    pairs = [Pair(pair.left * fall, pair.right) for pair in pairs_of(60, 40, 4, 4, 4, sizes=(10.0, 1.0, 1.0))]
    left, right, cores = core_space(pairs)
    cut, _ = best(left, cores[0] + cores[1] + cores[2], right, 4)
    shared = shared_space(pairs, 4)

    def shares(own: torch.Tensor, theirs: torch.Tensor) -> list[float]:
        return [held / whole for whole, held in (kept(pair, own, theirs) for pair in pairs)]

    after, before = shares(cut.left, cut.right), shares(shared.left, shared.right)
    assert after[0] > 0.99 and min(after[1:]) < 0.5
    assert before[0] > 0.9 and min(before[1:]) > 0.6


def test_the_order_of_adapters_is_immaterial() -> None:
    pairs = pairs_of(20, 14, 3, 2, 4)
    one, other = shared_space(pairs, 4), shared_space(pairs[::-1], 4)
    torch.testing.assert_close(one.left @ one.left.mT, other.left @ other.left.mT, rtol=1e-4, atol=1e-4)


def test_adapters_of_zeros() -> None:
    zero = Pair(torch.zeros(20, 2, dtype=torch.float64), torch.zeros(2, 14, dtype=torch.float64))
    for cores in (core_space([zero, zero]), shared_space([zero, zero], 2)):
        assert not torch.stack(cores.cores).any()
    assert kept(zero, zero.left, zero.right) == (0.0, 0.0)


def test_pico_damps_what_all_crowd_into() -> None:
    """By hand: two adapters share one strong direction of the output, and each has a weak one of its own."""
    rows = torch.eye(4, dtype=torch.float64)
    pairs = [Pair(torch.stack([3.0 * rows[0], rows[t]], dim=1), rows[:2]) for t in (1, 2)]
    left, right, cores = core_space(pairs, pico=True)
    energies = 2 * 9.0, 1.0
    strong, weak = (1.0 / (1.0 + energy / (2 * 9.0 + 2.0)) for energy in energies)
    for t, core in zip((1, 2), cores, strict=True):
        own = left @ core @ right
        assert math.isclose(float(own[0, 0]), 3.0 * strong) and math.isclose(float(own[t, 1]), weak)
    alone = pairs_of(20, 14, 3)
    plain, damped = core_space(alone), core_space(alone, pico=True)
    torch.testing.assert_close(plain.cores[0], damped.cores[0])


def test_a_merge_is_given_the_mean_length_of_its_adapters() -> None:
    adapters = [*pairs_of(20, 14, 3, 2), Pair(torch.zeros(20, 2).double(), torch.zeros(2, 14).double())]
    lengths = [float((pair.left @ pair.right).norm()) for pair in adapters[:2]]
    made = restored(Pair(adapters[0].left * 7.0, adapters[0].right), adapters)
    assert math.isclose(float((made.left @ made.right).norm()), sum(lengths) / 2, rel_tol=1e-12)
    assert math.isclose(float(made.square), (sum(lengths) / 2) ** 2, rel_tol=1e-12)
    for unchanged in (adapters[2], restored(adapters[2], adapters), restored(adapters[2], adapters[2:])):
        assert not unchanged.left.any()


def test_energy_that_is_kept() -> None:
    pair = Pair(torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64)), torch.eye(2, dtype=torch.float64))
    whole, held = kept(pair, torch.eye(2, dtype=torch.float64)[:, 1:], torch.eye(2, dtype=torch.float64))
    assert (whole, held) == pytest.approx((25.0, 16.0))
