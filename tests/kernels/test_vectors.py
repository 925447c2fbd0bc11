"""Operations on vectors, against numpy: each place and bound counts exactly, at any length of array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.kernels.compiled.jit import kernel
from mergery.kernels.compiled.vectors import (
    BYTES,
    EIGHT,
    PADDING,
    append,
    contested,
    count_below,
    count_bytes,
    count_short_below,
    equal,
    having,
)

quick = settings(max_examples=40, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32)
scratch = st.integers(1, 12).map(lambda vectors: vectors * PADDING)


@kernel
def list_contested(coins, values, low, span, listed):
    found = np.int64(0)
    for e in range(0, coins.size, EIGHT):
        found = append(listed, found, contested(coins, values, e, np.uint32(low), np.uint32(span)), e)
    return found


@kernel
def list_equal(places, value, listed):
    found = np.int64(0)
    for e in range(0, places.size, EIGHT):
        found = append(listed, found, equal(places, e, np.int8(value)), e)
    return found


@kernel
def list_having(array, mask, listed):
    found = np.int64(0)
    for e in range(0, array.size, EIGHT):
        found = append(listed, found, having(array, e, np.int32(mask)), e)
    return found


@kernel
def below(array, place, before, behind):
    return count_below(array, array.size, place, np.int32(before), np.int32(behind))


@kernel
def short_below(array, place, before, behind):
    return count_short_below(array, array.size, place, np.int16(before), np.int16(behind))


@kernel
def bytes_below(places, bound, step, counts):
    for first in range(0, places.size, 255 * BYTES):
        last = min(first + 255 * BYTES, places.size)
        count_bytes(places, first, last, np.int8(bound), np.int8(step), counts)
    return np.int64(0)


def floats(rng: np.random.Generator, size: int) -> np.ndarray:
    """With ties, zeros of both signs, and what is not finite."""
    values = rng.standard_normal(size).astype(np.float32).round(1)
    values[rng.random(size) < 0.02] = np.inf
    return np.where(rng.random(size) < 0.1, np.float32(-0.0), values)


@quick
@given(seeds, scratch, st.integers(0, 2**24), st.integers(0, 2**24))
def test_contested(seed: int, size: int, low: int, span: int) -> None:
    rng = np.random.default_rng(seed)
    coins, values = rng.integers(0, 2**24, size, dtype=np.int32), floats(rng, size)
    coins[: min(3, size)] = [low, low + span, low + span - 1][: min(3, size)]
    listed = np.zeros(size + EIGHT, np.uint32)
    found = list_contested(coins, values, low, span, listed)
    expected = np.flatnonzero((coins >= low) & (coins.astype(np.int64) < low + span) & (values != 0))
    np.testing.assert_array_equal(listed[:found], expected)


@quick
@given(seeds, scratch, st.integers(-128, 127))
def test_equal(seed: int, size: int, value: int) -> None:
    places = np.random.default_rng(seed).integers(value - 2, value + 3, size).clip(-128, 127).astype(np.int8)
    listed = np.zeros(size + EIGHT, np.uint32)
    found = list_equal(places, value, listed)
    np.testing.assert_array_equal(listed[:found], np.flatnonzero(places == value))


@quick
@given(seeds, scratch, st.sampled_from([0x1, 0xFFF, 0x7FFFFFFF]))
def test_having(seed: int, size: int, mask: int) -> None:
    array = floats(np.random.default_rng(seed), size).view(np.int32)
    listed = np.zeros(size + EIGHT, np.uint32)
    found = list_having(array, mask, listed)
    np.testing.assert_array_equal(listed[:found], np.flatnonzero(array & mask))


@quick
@given(seeds, scratch, st.data())
def test_counts_before_and_behind_a_place(seed: int, size: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    place = data.draw(st.integers(0, size - 1))
    patterns = np.abs(floats(rng, size)).view(np.int32)
    keys = rng.integers(-40, 40, size).astype(np.int16)
    for count, array in ((below, patterns), (short_below, keys)):
        one, two = int(array[place]), int(array[rng.integers(size)])
        for before, behind in ((one + 1, one), (one, one + 1), (one, two)):
            expected = np.sum(array[:place] < before) + np.sum(array[place:] < behind)
            assert count(array, place, before, behind) == expected


@pytest.mark.parametrize("size", [32, 1024, 255 * BYTES, 256 * BYTES, 20000 // BYTES * BYTES])
@pytest.mark.parametrize(("bound", "step"), [(1, 1), (25, 25), (-3, 7)])
def test_bytes_below(size: int, bound: int, step: int) -> None:
    places = np.random.default_rng(size).integers(0, 127, size).astype(np.int8)
    places[: size // 2] = 0  # so many that a byte could not hold their number
    counts = np.arange(4, dtype=np.int32)  # what is there stays
    bytes_below(places, bound, step, counts)
    np.testing.assert_array_equal(counts, [k + np.sum(places < bound + k * step) for k in range(4)])


def test_nothing_behind_a_room_is_written() -> None:
    listed = np.full(PADDING + EIGHT + 1, 77, np.uint32)
    assert list_equal(np.zeros(PADDING, np.int8), 0, listed) == PADDING
    np.testing.assert_array_equal(listed[:PADDING], np.arange(PADDING))
    assert listed[-1] == 77
