"""Exact order statistics of streams: the k-th largest magnitude without sorting, and without holding the stream.

A sample tells a narrow window of float32 bit patterns; one pass counts what lies in it and above it. Where the sample
misled, two passes always do: over the upper 16 bits of the patterns, and the lower ones. The answer is exact either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mergery.kernels.ranks import WIDTH, locate, settle, windows

BUCKETS = 1 << 15  # by the upper 16 bits of the patterns of non-negative float32
NARROW = 4  # buckets of a window that a sample chooses
SURE = 4.0  # standard deviations by which a sample's rank may be off

CountHigh = Callable[[np.ndarray], int]  # adds to int64 (k, BUCKETS); returns how many elements it counted
CountLow = Callable[[np.ndarray, np.ndarray, np.ndarray], None]  # first (k, m), counts (k, m, width), above (k, m)
Ranks = np.ndarray | Callable[[np.ndarray], np.ndarray]  # int64 (k, m), or by how many of a stream are not zero, (k,)


def largest(
    ranks: Ranks, k: int, n: int, high: CountHigh, low: CountLow, sample: CountHigh | None = None
) -> np.ndarray:
    """The values with the given ranks, counted from the largest (rank 1), of k streams of n magnitudes: float32 (k, m).

    Rank 0 gives infinity, a rank above n gives 0. `high` and `low` go over the whole stream, `sample` over a part.
    """
    counted = None
    if sample is not None and (callable(ranks) or _open(ranks, n).any()):
        counts = np.zeros((k, BUCKETS), dtype=np.int64)
        seen = sample(counts)
        if seen:
            guess = ranks(n - counts[:, 0] * n // seen) if callable(ranks) else ranks
            scaled = np.clip(np.rint(guess * (seen / n)).astype(np.int64), 1, seen)
            first = _starts(_open(guess, n), lambda i, w: _likely(counts[i], int(scaled[i, w]), seen))
            counted = _Counted(first, NARROW * WIDTH, low, zeros=callable(ranks))
    if callable(ranks):
        counted = counted or _Counted(np.zeros((k, 0), dtype=np.int64), WIDTH, low, zeros=True)
        ranks = ranks(n - counted.zeros)
    values = np.where(ranks <= 0, np.float32(np.inf), np.float32(0))
    left = _open(ranks, n)
    if counted is not None:
        left = counted.settle(values, left, ranks)
    if left.any():
        counts = np.zeros((k, BUCKETS), dtype=np.int64)
        high(counts)
        first = _starts(left, lambda i, w: [locate(counts[i], int(ranks[i, w]))])
        left = _Counted(first, WIDTH, low).settle(values, left, ranks)
        assert not left.any()
    return values


def _open(ranks: np.ndarray, n: int) -> np.ndarray:
    """Which ranks are those of elements."""
    return (ranks > 0) & (ranks <= n)


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


class _Counted:
    """What one pass found in windows of patterns, and how many elements are zero."""

    def __init__(self, first: np.ndarray, width: int, low: CountLow, *, zeros: bool = False) -> None:
        self.first = first
        if zeros:  # from one more window, at zero
            first = np.hstack([first, np.zeros((len(first), 1), dtype=np.int64)])
        self.counts = np.zeros((*first.shape, width), dtype=np.int64)
        self.above = np.zeros(first.shape, dtype=np.int64)
        low(first, self.counts, self.above)

    @property
    def zeros(self) -> np.ndarray:
        return self.counts[:, -1, 0]

    def settle(self, values: np.ndarray, open_: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Fill in the values that lie in the windows. Returns which are still open."""
        left = np.zeros_like(open_)
        m = open_.shape[1]
        for i, w in zip(*np.nonzero(open_), strict=True):
            places = [place for place in range(w, self.first.shape[1], m) if self.first[i, place] >= 0]
            rank = int(ranks[i, w])
            found = [settle(int(self.first[i, p]), self.counts[i, p], int(self.above[i, p]), rank) for p in places]
            answers = [value for value in found if value is not None]
            if answers:
                values[i, w] = answers[0]
            else:
                left[i, w] = True
        return left
