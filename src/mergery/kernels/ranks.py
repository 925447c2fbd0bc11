"""From counts to exact order statistics. A rank counts from the largest magnitude, which has rank 1.

Two passes over the data always do: `count_high` over all of it, `locate` the bucket, `count_low` over that
bucket, `settle`. One pass and a sample mostly do: `count_high` over the sample, take `windows` of a few
buckets, or two, `count_low` over them, `settle`; where that gives None, the sample misled and two passes
follow. The result is the same.
"""

from __future__ import annotations

import numpy as np

WIDTH = 65536
"""Patterns in one bucket of `count_high`: those that share their upper 16 bits."""

RUN = 256
"""Bins that are added up first, to find a rank among many bins."""


def locate(counts: np.ndarray, rank: int) -> int:
    """The bin that holds the rank-th largest.

    counts: int64 (bins,), in ascending order of what they count. Raises ValueError for a rank below 1 or
    above the total.
    """
    runs = np.add.reduceat(counts, np.arange(0, len(counts), RUN))
    reached = np.cumsum(runs[::-1])
    if not 1 <= rank <= reached[-1]:
        raise ValueError(f"rank {rank} is not in 1..{reached[-1]}")
    run = len(runs) - 1 - int(np.searchsorted(reached, rank))
    above = int(reached[-1] - runs[: run + 1].sum())
    inside = counts[run * RUN : (run + 1) * RUN]
    return run * RUN + len(inside) - 1 - int(np.searchsorted(np.cumsum(inside[::-1]), rank - above))


def magnitude(pattern: int) -> float:
    """The value, a float32, whose bits are `pattern`."""
    return float(np.uint32(pattern).view(np.float32))


def windows(counts: np.ndarray, rank: int, spread: int, buckets: int) -> list[int]:
    """Where one or two windows of so many buckets should begin to hold, most likely, the rank-th largest of a sample.

    counts: int64 (32768,), by `count_high` over the sample; rank: in the sample; spread: how far off it may be. Where few
    values occur, ranks near to each other lie far apart: the second window is then around the nearest value outside the
    first.
    """
    total, last = int(counts.sum()), len(counts) - buckets
    top, bottom = locate(counts, max(1, rank - spread)), locate(counts, min(total, rank + spread))
    if top - bottom < buckets:
        return [min(max(0, bottom - (buckets - 1 - (top - bottom)) // 2), last)]
    if top - bottom < 2 * buckets:
        return [min(bottom, last), min(bottom + buckets, last)]
    first = min(max(0, locate(counts, rank) - buckets // 2), last)
    above = int(counts[first + buckets :].sum())
    through = above + int(counts[first : first + buckets].sum())
    nearest = above if 0 < rank - above <= through + 1 - rank or through == total else through + 1
    beyond = locate(counts, max(1, nearest))
    return [first, min(max(0, beyond - buckets // 2), last)]


def settle(first: int, counts: np.ndarray, above: int, rank: int) -> float | None:
    """The rank-th largest magnitude, exactly, if it lies in a window that `count_low` has counted; else None.

    first, counts (width,), above: the window, as in `count_low`.
    """
    inside = rank - above
    if inside < 1 or inside > counts.sum():
        return None
    return magnitude(first * WIDTH + locate(counts, inside))
