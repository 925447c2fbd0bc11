"""Ranks within a row: exact, equal magnitudes in their order, by sorting or by looking only where it matters."""

from __future__ import annotations

import numpy as np

from weft.kernels.compiled.jit import inner
from weft.kernels.compiled.storage import MAGNITUDE, bits, f32, i32, u32
from weft.kernels.compiled.thinning import fill_coins

u8, u64 = np.uint8, np.uint64
BUCKETS = 256  # places are uint8: the compiler checks signed ones for being negative
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
        places[e] = u8(i32(abs(values[e]) * scale))


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
def _count_buckets(places, counts):
    """counts[b + 1]: how many places are b. Two tables in turn: equal places in a row then do not wait for each other."""
    counts[:] = 0
    one, two = counts[0, 1:], counts[1, 1:]
    even = places.size - places.size % 2
    for e in range(0, even, 2):
        one[places[e]] += i32(1)
        two[places[e + 1]] += i32(1)
    if even < places.size:
        one[places[even]] += i32(1)
    for bucket in range(one.size):
        one[bucket] += two[bucket]


@inner
def _bound(counts, limits, bounds):
    """The limits of the lowest and the highest rank of each bucket; counts become those of all buckets below."""
    one = counts[0]
    for bucket in range(BUCKETS):
        below = one[bucket]
        through = i32(below + one[bucket + 1])
        one[bucket + 1] = through
        if through > below:
            bounds[0, bucket], bounds[1, bucket] = limits[below], limits[through - 1]


@inner
def _decide(coins, places, lowest, highest, flags, open_):
    for e in range(coins.size):
        place, number = places[e], coins[e]
        kept = number < lowest[place]
        flags[e] = u8(kept)
        open_[e] = u8((number < highest[place]) & ~kept)


@inner
def toss(values, coins, key, first, limits, flags, places, open_, counts, bounds):
    """Whether each entry of a row is kept: whether its coin lies below the limit of its rank.

    values: a row; coins: int32 room (n,); places: uint8 room (n,); limits: int32 (n,), rising, by rank from 0; flags:
    uint8 (n,), the answer; open_: uint8 room for n and zeros up to the next multiple of 8; counts: int32 (2, BUCKETS + 1);
    bounds: int32 (2, BUCKETS).

    Counting the row's magnitudes in buckets tells between which ranks an entry lies. The few whose coin lies between the
    limits of these are ranked by comparing them with all.
    """
    fill_coins(coins, key, first)
    top = _largest(values)
    scale = f32(BUCKETS - 1) / top if top > 0 else f32(0)
    if not np.isfinite(scale):
        scale = f32(0)
    _coarse(values, scale, places)
    _count_buckets(places, counts)
    _bound(counts, limits, bounds)
    _decide(coins, places, bounds[0], bounds[1], flags, open_)
    eights = open_.view(np.uint64)
    for eight in range(eights.size):
        if eights[eight]:
            for e in range(8 * eight, 8 * eight + 8):
                if open_[e]:
                    flags[e] = u8(coins[e] < limits[_below(values, abs(values[e]), e)])
