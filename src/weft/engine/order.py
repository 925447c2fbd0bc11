"""Exact order statistics of streams: the k-th largest magnitude without sorting, and without holding the stream.

A sample tells a narrow window of float32 bit patterns; one pass counts what lies in it and above it. Where the sample
misled, two passes over the upper and the lower half of the patterns always do. The answer is exact either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from weft.kernels.ranks import HALF, locate, settle, windows

BUCKETS = 1 << 15  # upper halves of the patterns of non-negative float32
NARROW = 4  # buckets of a window that a sample chooses
SURE = 4.0  # standard deviations by which a sample's rank may be off

CountHigh = Callable[[np.ndarray], int]  # adds to int64 (k, BUCKETS); returns how many elements it counted
CountLow = Callable[[np.ndarray, np.ndarray, np.ndarray], None]  # first (k, m), counts (k, m, width), above (k, m)


def largest(ranks: np.ndarray, n: int, high: CountHigh, low: CountLow, sample: CountHigh | None = None) -> np.ndarray:
    """The values with the given ranks, counted from the largest (rank 1), of k streams of n magnitudes: float32 (k, m).

    Rank 0 gives infinity, a rank above n gives 0. `high` and `low` go over the whole stream, `sample` over a part.
    """
    values = np.where(ranks <= 0, np.float32(np.inf), np.float32(0))
    open_ = (ranks > 0) & (ranks <= n)
    if sample is not None and open_.any():
        counts = np.zeros((len(ranks), BUCKETS), dtype=np.int64)
        seen = sample(counts)
        if seen:
            scaled = np.clip(np.rint(ranks * (seen / n)).astype(np.int64), 1, seen)
            first = _starts(open_, lambda i, w: _likely(counts[i], int(scaled[i, w]), seen))
            open_ = _search(values, open_, ranks, first, NARROW * HALF, low)
    if open_.any():
        counts = np.zeros((len(ranks), BUCKETS), dtype=np.int64)
        high(counts)
        first = _starts(open_, lambda i, w: [locate(counts[i], int(ranks[i, w]))])
        open_ = _search(values, open_, ranks, first, HALF, low)
        assert not open_.any()
    return values


def _likely(counts: np.ndarray, rank: int, seen: int) -> list[int]:
    """Windows that hold the rank, by a sample of `seen`, unless it misleads by more than SURE standard deviations."""
    deviation = math.sqrt(rank * (seen - rank) / seen) + 1.0
    return windows(counts, rank, math.ceil(SURE * deviation), NARROW)


def _starts(open_: np.ndarray, start: Callable[[int, int], list[int]]) -> np.ndarray:
    """Where windows begin, int64 (k, m or 2 m): the second ones, where there are any, behind the first ones."""
    k, m = open_.shape
    first = np.full((k, 2 * m), -1, dtype=np.int64)
    for i, w in zip(*np.nonzero(open_), strict=True):
        for number, begin in enumerate(start(int(i), int(w))):
            first[i, number * m + w] = begin
    return first if (first[:, m:] >= 0).any() else np.ascontiguousarray(first[:, :m])


def _search(
    values: np.ndarray, open_: np.ndarray, ranks: np.ndarray, first: np.ndarray, width: int, low: CountLow
) -> np.ndarray:
    """Count in the windows and settle what lies in them. Returns which are still open."""
    counts = np.zeros((*first.shape, width), dtype=np.int64)
    above = np.zeros(first.shape, dtype=np.int64)
    low(first, counts, above)
    left = np.zeros_like(open_)
    m = open_.shape[1]
    for i, w in zip(*np.nonzero(open_), strict=True):
        places = [place for place in range(w, first.shape[1], m) if first[i, place] >= 0]
        found = [settle(int(first[i, p]), counts[i, p], int(above[i, p]), int(ranks[i, w])) for p in places]
        answers = [value for value in found if value is not None]
        if answers:
            values[i, w] = answers[0]
        else:
            left[i, w] = True
    return left
