"""The compiled kernels give the bytes of the readable ones, whatever the types, sizes and values."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.kernels import compiled, readable
from tests.kernels.kernel_cases import BOTH, OVERFLOW, SIZES, Case, consensus, count_high, count_low, gram, make, mix

CODES = st.integers(0, 3)
OUT_CODES = st.integers(0, 4)
FINITE = st.sampled_from(["weights", "special", "patterns"])
KINDS = FINITE | st.just("broken")
LENGTHS = st.integers(1, 300) | st.sampled_from([2047, 2048, 2049, 4095, 5000])

quick = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def cases(draw: st.DrawFn, kinds: st.SearchStrategy[str] = KINDS, has_base: int | None = None) -> Case:
    base = draw(st.integers(0, 1)) if has_base is None else has_base
    codes = draw(st.lists(CODES, min_size=1 + base, max_size=4 + base))
    return make(draw(st.integers(0, 2**32)), draw(kinds), codes, draw(LENGTHS), base)


def assert_same(results: list[tuple]) -> None:
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@quick
@given(cases(), OUT_CODES, st.integers(1, 4), st.integers(0, 99))
def test_mix(case: Case, out_code: int, rows: int, seed: int) -> None:
    n = case.n - case.n % rows
    case = Case(case.raw, case.codes, n, case.has_base)
    coefficients = np.random.default_rng(seed).standard_normal((rows, case.k)).astype(np.float32)
    assert_same([mix(module, case, coefficients, out_code) for module in BOTH])


@quick
@given(
    st.integers(0, 2**32), KINDS, LENGTHS, st.integers(0, 1), st.integers(2, 5), st.sampled_from([0, 4]), st.integers(1, 3),
)  # fmt: skip
def test_mix_of_bfloat16(seed: int, kind: str, n: int, has_base: int, k: int, out_code: int, rows: int) -> None:
    case = make(seed, kind, [0] * (has_base + k), n - n % rows or rows, has_base)
    coefficients = np.random.default_rng(seed).standard_normal((rows, k)).astype(np.float32)
    assert_same([mix(module, case, coefficients, out_code) for module in BOTH])


@quick
@given(
    cases(has_base=1), OUT_CODES, st.integers(0, 999), st.integers(0, 1),
    st.sampled_from([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3), (-1, 0), (-1, 1), (-1, 2), (-1, 3)]), st.integers(0, 9),
)  # fmt: skip
def test_agree(case: Case, out_code: int, seed: int, random: int, election: tuple[int, int], offset: int) -> None:
    elect, normalize = election
    settings = consensus(seed, case.k, random=random, elect=elect, normalize=normalize, divisor=1.3, scale=0.7)
    assert_same([settings.consensus(module, case, out_code, offset) for module in BOTH])


@quick
@given(cases(), CODES)
def test_convert(case: Case, out_code: int) -> None:
    results = []
    for module in BOTH:
        out = np.zeros(case.n * SIZES[out_code], np.uint8)
        results.append((module.convert(case.raw[0], int(case.codes[0]), case.n, out, out_code), out))
    assert_same(results)
    if case.codes[0] == out_code:
        np.testing.assert_array_equal(results[0][1], case.raw[0, : len(out)])


@quick
@given(cases(FINITE))
def test_gram(case: Case) -> None:
    assert_same([gram(module, case) for module in BOTH])


@quick
@given(cases(FINITE, has_base=1), st.integers(0, 999), st.integers(0, 1), st.integers(0, 9))
def test_l1_norms(case: Case, seed: int, random: int, offset: int) -> None:
    settings = consensus(seed, case.k, random=random)
    assert_same([settings.l1_norms(module, case, offset) for module in BOTH])


@pytest.mark.parametrize("n", [65535, 65536, 65537, 200_000])
def test_sums_of_several_blocks(n: int) -> None:
    case = make(n, "weights", [0, 2, 1], n, 1)
    assert_same([gram(module, case) for module in BOTH])
    assert_same([consensus(0, 2, random=1).l1_norms(module, case, 6) for module in BOTH])


@quick
@given(cases(FINITE), st.integers(-1, 32765), st.integers(1, 3))
def test_counts(case: Case, first: int, buckets: int) -> None:
    high = [count_high(module, case) for module in BOTH]
    assert_same(high)
    assert high[0][1].sum() == case.n * case.k
    middle = min(int(high[0][1][0].argmax()), 32765)
    windows = np.tile(np.array([first, middle], np.int64), (case.k, 1))
    low = [count_low(module, case, windows, buckets) for module in BOTH]
    assert_same(low)
    _, counts, above = low[0]
    for i in range(case.k):
        assert counts[i, 1].sum() == high[0][1][i, middle : middle + buckets].sum()
        assert above[i, 1] == high[0][1][i, middle + buckets :].sum()
        if first < 0:
            assert counts[i, 0].sum() == above[i, 0] == 0


@pytest.mark.parametrize("module", BOTH)
def test_nothing_to_do(module: object) -> None:
    case = make(0, "weights", [0, 1, 3], 0, 1)
    assert mix(module, case, np.ones((1, 2), np.float32), 0)[0] == 0
    assert consensus(0, 2, random=1, elect=1).consensus(module, case, 2)[0] == 0
    assert gram(module, case)[1].shape == (0, 2, 2)
    assert count_high(module, case)[1].sum() == 0


@pytest.mark.parametrize("module", BOTH)
def test_inputs_are_left_alone_and_capacity_is_not_read(module: object) -> None:
    case = make(5, "weights", [0, 1, 2, 3], 100, 1)
    before = case.raw.copy()
    settings = consensus(1, 3, random=1, elect=1, normalize=1)
    assert mix(module, case, np.ones((1, 3), np.float32), 2)[0] == 0  # what lies behind the elements is NaN
    assert settings.consensus(module, case, 0)[0] == 0
    assert settings.l1_norms(module, case)[0] == gram(module, case)[0] == count_high(module, case)[0] == 0
    np.testing.assert_array_equal(case.raw, before)


def test_threads_do_not_disturb_each_other() -> None:
    case = make(3, "weights", [0, 0, 0, 0], 50_000, 1)
    settings = consensus(3, 3, random=1, elect=1, normalize=1)
    expected = settings.consensus(readable, case, 0)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: settings.consensus(compiled, case, 0), range(16)))
    for result in results:
        assert_same([result, expected])


@pytest.mark.parametrize("module", BOTH)
def test_status_names_the_rows_that_are_not_finite(module: object) -> None:
    for code in range(4):
        case = make(7, "weights", [code] * 4, 3000, 1)
        for row, place, value in ((0, 0, np.inf), (2, 2999, np.nan), (3, 2048, -np.inf)):
            case.raw[row, place * SIZES[code] : (place + 1) * SIZES[code]] = _stored(value, code)
        bits = 0b1101
        coefficients = np.ones((1, 3), np.float32)
        assert mix(module, case, coefficients, 2)[0] == bits | OVERFLOW
        assert consensus(0, 3).consensus(module, case, 2)[0] & 15 == bits
        assert gram(module, case)[0] == count_high(module, case)[0] == consensus(0, 3).l1_norms(module, case)[0] == bits
        assert count_low(module, case, np.zeros((3, 1), np.int64))[0] == bits


def _stored(value: float, code: int) -> np.ndarray:
    from tests.kernels.kernel_cases import store

    return store(np.array([value]), code)


@quick
@given(st.sampled_from([1, 2, 4, 8]), st.integers(1, 9), st.integers(1, 40), st.integers(0, 999))
def test_permute(size: int, count: int, width: int, seed: int) -> None:
    rng, kind = np.random.default_rng(seed), np.dtype(f"u{size}")
    rows = rng.integers(0, 256, (count, width * size), dtype=np.uint8).view(kind)
    order, columns = rng.integers(0, count, count + 1), rng.permutation(width).astype(np.uint32)
    flips, row_flips = (rng.integers(0, 2, n).astype(kind) << kind.type(8 * size - 1) for n in (width, count + 1))
    results = []
    for module in BOTH:
        out = np.zeros((count + 1, width), kind)
        module.permute(rows, order, columns, flips, row_flips, out)
        results.append((out,))
    assert_same(results)
    by_hand = [
        [rows[i, j] ^ flips[e] ^ flip for e, j in enumerate(columns)] for i, flip in zip(order, row_flips, strict=True)
    ]
    np.testing.assert_array_equal(results[0][0], np.array(by_hand, kind))
