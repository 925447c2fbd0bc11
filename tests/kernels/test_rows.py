"""Which entries of a row are kept by their rank: as sorting the whole row says, whatever the row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.kernels import random
from mergery.kernels.compiled.jit import kernel
from mergery.kernels.compiled.rows import KEYED, SORTED, select, toss
from mergery.kernels.compiled.scratch import make_scratch
from mergery.kernels.compiled.sorting import assign

quick = settings(max_examples=150, deadline=None, derandomize=True)


@kernel
def toss_row(values, key, limits, flags):
    scratch = make_scratch(values.size)
    scratch.values[: values.size] = values
    toss(scratch, key, 5, limits, flags)
    return np.int64(0)


@kernel
def select_row(values, first, last, flags):
    scratch = make_scratch(values.size)
    scratch.values[: values.size] = values
    select(scratch, first, last, flags)
    return np.int64(0)


@kernel
def assign_row(values, steps, given):
    scratch = make_scratch(values.size)
    scratch.values[: values.size] = values
    assign(scratch, steps, given)
    return np.int64(0)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Values as bfloat16 holds them, by cutting."""
    return (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def row(kind: str, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(n).astype(np.float32)
    match kind:
        case "normal":
            return normal
        case "fine-tuned":  # the difference of two in bfloat16: many ties, and few entries of more digits
            return bfloat16(normal * 0.02 + rng.standard_normal(n) * 1e-3) - bfloat16(normal * 0.02)
        case "few":
            return normal.round()
        case "equal":
            return np.full(n, -0.25, np.float32) * np.where(normal > 0, 1, -1).astype(np.float32)
        case "sparse":
            return np.where(rng.random(n) < 0.8, np.float32(0), normal)
        case "outlier":
            normal[rng.integers(n)] = 1e30
            return normal
        case "wide":  # more powers of two than keys tell apart
            return np.ldexp(normal, rng.integers(-120, 120, n)).astype(np.float32)
        case "subnormal":
            return (normal * np.float32(1e-44)).astype(np.float32)
        case _:
            return np.zeros(n, np.float32)


KINDS = ["normal", "fine-tuned", "few", "equal", "sparse", "outlier", "wide", "subnormal", "zero"]
rows = st.builds(row, st.sampled_from(KINDS), st.integers(1, 70) | st.integers(1, 3000), st.integers(0, 2**32))


def tossed(values: np.ndarray, limits: np.ndarray, key: int) -> np.ndarray:
    coins = (random.uniform(key, 5, 5 + len(values)).numpy() * 2.0**24).astype(np.int32)
    order = np.argsort(np.abs(values), kind="stable")
    kept = np.empty(len(values), bool)
    kept[order] = coins[order] < limits
    return kept


def assert_tossed(values: np.ndarray, low: float, high: float, key: int) -> None:
    limits = np.ceil(np.linspace(low, high, len(values)) * 2.0**24).astype(np.int32)
    flags = np.full(len(values), 9, np.uint8)
    toss_row(values, key, limits, flags)
    counted = values != 0
    np.testing.assert_array_equal(flags[counted], tossed(values, limits, key)[counted])


@quick
@given(rows, st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**62))
def test_toss(values: np.ndarray, one: float, two: float, key: int) -> None:
    assert_tossed(values, min(one, two), max(one, two), key)


@pytest.mark.parametrize("kind", ["fine-tuned", "wide", "normal", "few"])
@pytest.mark.parametrize("n", [4097, 16000])
def test_toss_long_rows(kind: str, n: int) -> None:
    """Here, ranks are found by keys, and by sorting."""
    assert n * SORTED > KEYED
    assert_tossed(row(kind, n, n), 0.2, 0.45, 3)
    assert_tossed(row(kind, n, n), 0.0, 1.0, 4)


def test_toss_a_row_of_millions() -> None:
    """As of experts that are stacked in three dimensions: sums of 16 bits would not hold their number."""
    assert_tossed(row("few", 1 << 23, 1), 0.3, 0.30003, 5)


@quick
@given(rows, st.floats(0, 1), st.floats(0, 1))
def test_select(values: np.ndarray, one: float, two: float) -> None:
    n = len(values)
    first, last = sorted((int(one * n), round(two * n)))
    flags = np.full(n, 9, np.uint8)
    select_row(values, first, last, flags)
    expected = np.zeros(n, bool)
    expected[np.argsort(-np.abs(values), kind="stable")[first:last]] = True
    counted = values != 0
    np.testing.assert_array_equal(flags[counted], expected[counted])


def assert_assigned(values: np.ndarray) -> None:
    ranks, given = np.arange(len(values), dtype=np.float32), np.full(len(values), -1, np.float32)
    assign_row(values, ranks, given)
    np.testing.assert_array_equal(given[np.argsort(np.abs(values), kind="stable")], ranks)


@quick
@given(rows)
def test_assign(values: np.ndarray) -> None:
    assert_assigned(values)


@pytest.mark.parametrize("kind", ["fine-tuned", "sparse", "wide"])
@pytest.mark.parametrize("n", [16000, 70000])
def test_assign_long_rows(kind: str, n: int) -> None:
    assert_assigned(row(kind, n, n))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_ends(broken: float) -> None:
    """The merge refuses it later; here it must only do no harm."""
    values = row("normal", 1000, 0)
    values[::7] = broken
    flags = np.zeros(1000, np.uint8)
    for _ in range(2):
        toss_row(values, 1, np.linspace(0, 2**24, 1000).astype(np.int32), flags)
        select_row(values, 100, 700, flags)
        assert set(flags) <= {0, 1}
        assign_row(values, np.zeros(1000, np.float32), np.zeros(1000, np.float32))
        values[:] = broken
