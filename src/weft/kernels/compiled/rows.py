"""Ranks within a row: exact, equal magnitudes in their order, by sorting or by looking only where it matters."""

from __future__ import annotations

import numpy as np

from weft.kernels.compiled.jit import inner
from weft.kernels.compiled.storage import MAGNITUDE, bits, f32, i32, u32
from weft.kernels.compiled.thinning import fill_coins

u64 = np.uint64
BUCKETS = 512
_BYTE = u64(255)


@inner
def _pack(values, flip, pairs, counts):
    """Patterns of magnitudes with their places behind them, and how often each byte of the patterns occurs."""
    counts[:] = 0
    for e in range(values.size):
        pattern = u32(u32(bits(values[e]) & MAGNITUDE) ^ flip)
        pairs[e] = (u64(pattern) << u64(32)) | u64(e)
        counts[0, pattern & u32(255)] += 1
        counts[1, (pattern >> u32(8)) & u32(255)] += 1
        counts[2, (pattern >> u32(16)) & u32(255)] += 1
        counts[3, pattern >> u32(24)] += 1


@inner
def _distribute(source, target, starts, shift):
    for e in range(source.size):
        pair = source[e]
        byte = np.int64((pair >> shift) & _BYTE)
        target[starts[byte]] = pair
        starts[byte] += 1


@inner
def sort_magnitudes(values, falling, pairs, spare, counts):
    """Places in the row by rising or falling magnitude, equal ones in their order: the lower halves of the result's words.

    pairs, spare: uint64 (n,); counts: int64 (4, 256). Sorts byte by byte, and passes over bytes that are all equal.
    """
    _pack(values, MAGNITUDE if falling else u32(0), pairs, counts)
    n = values.size
    for byte in range(4):
        starts = counts[byte]
        if starts.max() == n:
            continue
        total = 0
        for value in range(256):
            here = starts[value]
            starts[value] = total
            total += here
        _distribute(pairs, spare, starts, u64(32 + 8 * byte))
        pairs, spare = spare, pairs
    return pairs


@inner
def _coarse(values, scale, places):
    """The bucket of each magnitude: larger ones are never in a lower bucket."""
    for e in range(values.size):
        places[e] = i32(abs(values[e]) * scale)


@inner
def _largest(values):
    top = i32(0)
    for e in range(values.size):
        magnitude = i32(bits(values[e]) & MAGNITUDE)
        top = magnitude if magnitude > top else top
    return u32(top).view(np.float32)


@inner
def _below(values, size, place):
    """How many entries are smaller, or equal and before this place."""
    smaller, equal = i32(0), i32(0)
    for e in range(values.size):
        smaller = i32(smaller + i32(abs(values[e]) < size))
    for e in range(place):
        equal = i32(equal + i32(abs(values[e]) == size))
    return np.int64(smaller) + np.int64(equal)


@inner
def _undecided(coins, low, high, places):
    """Where a coin lies in [low, high). Returns how many there are."""
    found = 0
    for e in range(coins.size):
        places[found] = e
        found += np.int64((coins[e] >= low) & (coins[e] < high))
    return found


@inner
def _below_limit(coins, limit, flags):
    for e in range(coins.size):
        flags[e] = np.uint8(coins[e] < limit)


@inner
def toss(values, coins, key, first, limits, flags, places, open_, counts):
    """Whether each entry of a row is kept: whether its coin lies below the limit of its rank.

    values: a row; coins, places, open_: int32 room (n + 1,); limits: int32 (n,), rising, by rank from 0; flags: uint8 (n,),
    the answer; counts: int64 (BUCKETS + 2,).

    Most coins decide alone. For the others, counting the row's magnitudes in buckets tells between which ranks an entry
    lies; the few whose coin lies between those limits are ranked by comparing them with all.
    """
    n = values.size
    fill_coins(coins[:n], key, first)
    low, high = limits[0], limits[n - 1]
    _below_limit(coins[:n], low, flags)
    found = _undecided(coins[:n], low, high, open_)
    if found == 0:
        return
    top = _largest(values)
    scale = f32(BUCKETS - 1) / top if top > 0 else f32(0)
    if not np.isfinite(scale):
        scale = f32(0)
    _coarse(values, scale, places[:n])
    counts[:] = 0
    for e in range(n):
        counts[places[e] + 1] += 1
    for bucket in range(BUCKETS):
        counts[bucket + 1] += counts[bucket]
    for number in range(found):
        place = open_[number]
        bucket = places[place]
        if coins[place] < limits[counts[bucket]]:
            flags[place] = 1
        elif counts[bucket + 1] - counts[bucket] > 1 and coins[place] < limits[counts[bucket + 1] - 1]:
            flags[place] = np.uint8(coins[place] < limits[_below(values, abs(values[place]), place)])
