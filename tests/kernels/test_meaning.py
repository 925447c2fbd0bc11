"""The kernels compute what they say, by references that share no code with them."""

from __future__ import annotations

import math
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch

from mergery.kernels.random import uniform
from mergery.kernels.ranks import locate, magnitude, settle, windows
from tests.kernels.kernel_cases import (
    BOTH,
    OVERFLOW,
    SIZES,
    TORCH,
    Case,
    Consensus,
    consensus,
    count_high,
    count_low,
    gram,
    load,
    make,
    mix,
    pack,
    singles,
)

both = pytest.mark.parametrize("module", BOTH)


def _converted(module: ModuleType, stored: np.ndarray, code: int, n: int, out_code: int) -> tuple[int, torch.Tensor]:
    out = np.zeros(n * SIZES[out_code], np.uint8)
    status = module.convert(stored, code, n, out, out_code)
    return status, load(out, out_code, n)


# --- storage types ------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("code", [0, 1])
def test_every_half_is_read_as_torch_reads_it(module: ModuleType, code: int) -> None:
    stored = np.arange(65536, dtype=np.uint16).view(np.uint8)
    status, values = _converted(module, stored, code, 65536, 2)
    expected = load(stored, code, 65536).to(torch.float32)
    finite = ~expected.isnan()
    assert status == 1 | OVERFLOW
    assert torch.equal(values.view(torch.int32)[finite], expected.view(torch.int32)[finite])
    assert values[~finite].isnan().all()


@both
@pytest.mark.parametrize("out_code", [0, 1])
def test_rounding_is_to_nearest_even(module: ModuleType, out_code: int) -> None:
    """At each number, at each midpoint between neighbours, and one float32 to either side of both."""
    numbers = load(np.arange(65536, dtype=np.uint16).view(np.uint8), out_code, 65536).to(torch.float64)
    numbers = numbers[numbers.isfinite()].sort().values
    points = torch.cat((numbers, (numbers[1:] + numbers[:-1]) / 2)).to(torch.float32).numpy()
    edges = np.nextafter(np.float32(65520 if out_code else 3.3961775e38), singles(0, np.inf))
    values = np.concatenate((points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf), edges))
    status, rounded = _converted(module, values.view(np.uint8), 2, len(values), out_code)
    expected = torch.from_numpy(values).to(TORCH[out_code])
    assert torch.equal(rounded.view(torch.int16), expected.view(torch.int16))
    assert status == OVERFLOW


@both
def test_float64_goes_through_float32(module: ModuleType) -> None:
    values = np.array([1 / 3, 1 + 2**-24 + 2**-40, -1e-46, 1e300, 0.1])
    status, out = _converted(module, values.view(np.uint8), 3, 5, 3)
    assert status == 1
    assert torch.equal(out, torch.from_numpy(values))
    status, out = _converted(module, values[:3].view(np.uint8), 3, 3, 2)
    assert status == 0
    assert torch.equal(out, torch.from_numpy(values[:3]).to(torch.float32))


@both
@pytest.mark.parametrize(
    ("value", "out_code", "finite"),
    [(65519.0, 1, True), (65520.0, 1, False), (-65520.0, 1, False), (3.3895e38, 0, True), (3.4e38, 0, False),
     (3.4e38, 2, True), (3.4e38, 3, True)],
)  # fmt: skip
def test_overflow_is_reported(module: ModuleType, value: float, out_code: int, finite: bool) -> None:
    raw, codes = pack([np.full(70, value)], [2])
    case = Case(raw, codes, 70, 0)
    status, out = mix(module, case, singles([1.0]), out_code)
    assert status == (0 if finite else OVERFLOW)
    assert bool(load(out, out_code, 70).isfinite().all()) is finite


# --- maps ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("has_base", [0, 1])
def test_mix(module: ModuleType, has_base: int) -> None:
    case = make(1, "weights", [2, 2, 2, 2], 5000, has_base)
    coefficients = np.random.default_rng(0).standard_normal((2, case.k)).astype(np.float32)
    _, out = mix(module, case, coefficients, 3)
    expected = np.einsum("rk,krc->rc", coefficients.astype(float), np.stack(case.vectors()).reshape(case.k, 2, -1))
    expected = expected.ravel() + has_base * load(case.raw[0], 2, 5000).numpy()
    np.testing.assert_allclose(load(out, 3, 5000).numpy(), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def _naive(case: Case, s: Consensus, offset: int) -> list[float]:
    """`Consensus` by its definition, a number at a time, in float64."""
    base = load(case.raw[0], int(case.codes[0]), case.n).tolist()
    coins = [uniform(int(key), 0, offset + case.n).tolist() for key in s.keys]
    result = []
    for e in range(case.n):
        kept = []
        for i, delta in enumerate(vector[e].item() for vector in case.vectors()):
            heads = not s.random or coins[i][offset + e] < s.probability[i]
            if s.least[i] <= abs(delta) <= s.most[i] and heads:
                ballot = delta * float(s.gain[i]) * (1.0 if s.normalize == 3 else float(s.weight[i]))
                kept.append((ballot, float(s.weight[i])))
        share = s.divisor
        if s.elect:
            vote = sum(value for value, _ in kept)
            sign = 1 if vote > 0 or (vote == 0 and s.elect > 0) else -1
            kept = [(value, weight) for value, weight in kept if value * sign > 0]
            share = sum(weight for _, weight in kept) or 1.0
        total = sum(value * (weight if s.normalize == 3 else 1.0) for value, weight in kept)
        if s.normalize == 2:
            total = max((value for value, _ in kept), key=abs, default=0.0)
        result.append(base[e] + s.scale * (total / share if s.normalize == 1 else total))
    return result


@both
@pytest.mark.parametrize(
    ("elect", "normalize"), [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (-1, 0), (-1, 1), (-1, 2), (-1, 3)]
)
@pytest.mark.parametrize("random", [0, 1])
def test_agree(module: ModuleType, random: int, elect: int, normalize: int) -> None:
    rng = np.random.default_rng(4)
    rows = [rng.standard_normal(500) for _ in range(4)]
    case = Case(*pack(rows, [2, 0, 1, 3]), 500, 1)
    settings = Consensus(
        keys=np.array([1, 2**63, 2**64 - 1], np.uint64),
        weight=singles(1.0, 0.5, 0.75),
        least=singles(0.1, 0.0, 0.7),
        most=singles(np.inf, 2.0, np.inf),
        probability=singles(0.5, 0.9, 1.0),
        gain=singles(2.0, 1.0, 1.25),
        random=random,
        elect=elect,
        normalize=normalize,
        divisor=2.25,
        scale=0.5,
    )
    _, out = settings.consensus(module, case, 3, offset=11)
    np.testing.assert_allclose(load(out, 3, 500).numpy(), _naive(case, settings, 11), rtol=1e-5, atol=1e-6)


@both
def test_worked_example(module: ModuleType) -> None:
    """Two models against one: their sign wins, and their mean is added to the base."""
    case = Case(*pack([np.array([10.0, 10.0]), *(np.array([10 + d, 10.0]) for d in (1, 2, -2.5))], [2] * 4), 2, 1)
    ones = singles(1, 1, 1)
    settings = Consensus(np.zeros(3, np.uint64), ones, 0 * ones, np.inf * ones, ones, ones, elect=1, normalize=1)
    status, out = settings.consensus(module, case, 2)
    assert status == 0
    assert load(out, 2, 2).tolist() == [11.5, 10.0]


@both
@pytest.mark.parametrize("offset", [0, 1, 4094, 123_457])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1 / 3, 2.0**-24, 1 - 2.0**-24, 1.0])
def test_coins_are_the_keyed_ones(module: ModuleType, offset: int, probability: float) -> None:
    n = 5001
    key = 0xF00D_FACE_CAFE_BEEF
    case = Case(*pack([np.zeros(n), np.ones(n)], [0, 0]), n, 1)
    ones = singles(1)
    settings = Consensus(
        np.array([key], np.uint64), ones, 0 * ones, np.inf * ones, singles(probability), ones, random=1
    )
    _, out = settings.consensus(module, case, 0, offset)
    expected = uniform(key, offset, offset + n) < float(np.float32(probability))
    assert torch.equal(load(out, 0, n) == 1, expected)
    _, sums = settings.l1_norms(module, case, offset)
    assert sums.tolist() == [[[n, int(expected.sum())]]]


# --- sums ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("has_base", [0, 1])
def test_gram(module: ModuleType, has_base: int) -> None:
    case = make(2, "weights", [0, 1, 2, 3], 150_001, has_base)
    _, out = gram(module, case)
    vectors = np.stack(case.vectors()).astype(float)
    np.testing.assert_allclose(out.sum(axis=0), vectors @ vectors.T, rtol=1e-12, atol=1e-12 * (vectors**2).sum())


@both
def test_l1_norms(module: ModuleType) -> None:
    case = make(2, "weights", [0, 0, 0], 100_001, 1)
    size = np.abs(np.stack(case.vectors()).astype(float))
    ones = singles(1, 1)
    median = np.median(size, axis=1).astype(np.float32)
    settings = Consensus(np.zeros(2, np.uint64), ones, median, np.inf * ones, ones, ones)
    _, out = settings.l1_norms(module, case)
    kept = np.where(size >= median[:, None], size, 0)
    np.testing.assert_allclose(out.sum(axis=0), np.stack((size.sum(1), kept.sum(1)), axis=1), rtol=1e-12)


# --- order statistics ---------------------------------------------------------------------------------------


def _two_passes(module: ModuleType, case: Case, rank: int) -> list[float | None]:
    _, high = count_high(module, case)
    first = np.array([[locate(row, rank)] for row in high], np.int64)
    _, low, above = count_low(module, case, first)
    return [settle(int(first[i, 0]), low[i, 0], int(above[i, 0]), rank) for i in range(case.k)]


@both
@pytest.mark.parametrize("kind", ["weights", "special", "patterns", "zeros"])
@pytest.mark.parametrize("has_base", [0, 1])
def test_the_order_statistic_is_exact(module: ModuleType, kind: str, has_base: int) -> None:
    n = 4001
    codes = [0, 1, 2] if kind == "weights" else [2, 2, 2]  # the others overflow the types of 16 bits
    case = make(9, kind, codes, n, has_base) if kind != "zeros" else Case(*pack([np.zeros(n)] * 2, [0, 2]), n, 1)
    for rank in (1, 2, n // 5, n // 2, n - 1, n):
        for vector, found in zip(case.vectors(), _two_passes(module, case, rank), strict=True):
            size = np.abs(vector)
            assert found == np.partition(size, n - rank)[n - rank]
            assert found == torch.from_numpy(size).kthvalue(n - rank + 1).values.item()


@both
def test_a_sample_saves_a_pass(module: ModuleType) -> None:
    n, share, buckets = 100_000, 0.2, 5
    case = make(9, "weights", [0, 0, 2], n, 1)
    sample = case.part(40_000, 50_000)
    _, high = count_high(module, sample)
    first = np.array([windows(row, int(share * sample.n), 1, buckets)[:1] for row in high], np.int64)
    _, low, above = count_low(module, case, first, buckets)
    rank = int(share * n)
    found = [settle(int(first[i, 0]), low[i, 0], int(above[i, 0]), rank) for i in range(2)]
    assert found == _two_passes(module, case, rank)


@both
def test_a_window_that_misses_says_so(module: ModuleType) -> None:
    case = make(9, "weights", [2], 1000, 0)
    _, high = count_high(module, case)
    _, low, above = count_low(module, case, np.array([[locate(high[0], 200)]]))
    first = locate(high[0], 200)
    assert settle(first, low[0, 0], int(above[0, 0]), 200) is not None
    assert settle(first, low[0, 0], int(above[0, 0]), 1) is None
    assert settle(first, low[0, 0], int(above[0, 0]), 1000) is None


def test_ranks() -> None:
    counts = np.array([2, 0, 3, 1], np.int64)
    assert [locate(counts, rank) for rank in range(1, 7)] == [3, 2, 2, 2, 0, 0]
    for rank in (0, 7):
        with pytest.raises(ValueError, match=rf"rank {rank} is not in 1\.\.6"):
            locate(counts, rank)
    assert magnitude(0x3F800000) == 1.0
    assert magnitude(0) == 0.0


def test_windows_hold_what_a_sample_leaves_open() -> None:
    counts = np.zeros(40, np.int64)
    counts[[10, 11, 12, 13]] = 25  # ranks 1-25, 26-50, 51-75 and 76-100, from the highest bucket
    assert windows(counts, 50, 10, 4) == [10]  # between buckets 11 and 12: one window holds both
    assert windows(counts, 50, 40, 2) == [10, 12]  # all four: two windows side by side
    counts = np.zeros(40, np.int64)
    counts[[5, 20, 35]] = 30
    assert windows(counts, 45, 10, 4) == [19]  # well inside the middle value's ranks
    assert windows(counts, 32, 10, 4) == [18, 33]  # the sample may have missed the value above
    assert windows(counts, 58, 10, 4) == [18, 3]  # or the one below
    assert windows(counts, 30, 10, 4) == [33, 18]
    assert windows(counts, 90, 100, 4) == [3, 18]


# --- chunks -------------------------------------------------------------------------------------------------


@both
def test_chunks_do_not_matter(module: ModuleType) -> None:
    n = 200_000
    cuts = [0, 65536, 131_072, n]
    case = make(6, "weights", [0, 1, 0], n, 1)
    parts = [(start, case.part(start, stop)) for start, stop in pairwise(cuts)]
    settings = consensus(2, 2, random=1, elect=1, normalize=1)
    coefficients = singles([0.3, 0.6])

    def joined(results: list[tuple[int, np.ndarray]]) -> bytes:
        return b"".join(result.tobytes() for _, result in results)

    for whole, pieces in (
        (mix(module, case, coefficients, 0), [mix(module, part, coefficients, 0) for _, part in parts]),
        (settings.consensus(module, case, 0), [settings.consensus(module, part, 0, start) for start, part in parts]),
        (gram(module, case), [gram(module, part) for _, part in parts]),
        (settings.l1_norms(module, case), [settings.l1_norms(module, part, start) for start, part in parts]),
    ):
        assert joined([whole]) == joined(pieces)
    np.testing.assert_array_equal(count_high(module, case)[1], sum(count_high(module, part)[1] for _, part in parts))
    first = np.full((2, 1), 15_000, np.int64)
    for place in (1, 2):
        pieces = [count_low(module, part, first)[place] for _, part in parts]
        np.testing.assert_array_equal(count_low(module, case, first)[place], sum(pieces))
    assert math.isclose(math.fsum(gram(module, case)[1][:, 0, 0]), float((case.vectors()[0].astype(float) ** 2).sum()))
