"""Ranks within a row: exact, equal magnitudes in their order, by sorting or by looking only where it matters."""

from __future__ import annotations

import numpy as np

from weft.kernels.compiled.jit import inner
from weft.kernels.compiled.storage import MAGNITUDE, bits, f32, i32, u8, u32, u64
from weft.kernels.compiled.thinning import fill_coins

BUCKETS = 256  # places are uint8: the compiler checks signed ones for being negative
_DROPPED, _KEPT, _CUT = u8(0), u8(1), u8(2)
SAMPLE = 64  # entries of a row that tell how wide buckets should be
SORTED = 256  # ranks of a row: to find more of them, sorting is faster than counting
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
        starts, shift = counts[byte], u64(32 + 8 * byte)
        if starts[np.int64((pairs[0] >> shift) & _BYTE)] == n:
            continue
        total = 0
        for value in range(256):
            here = starts[value]
            starts[value] = total
            total += here
        _distribute(pairs, spare, starts, shift)
        pairs, spare = spare, pairs
    return pairs


@inner
def _resolution(values):
    """Buckets by magnitude: so many that the bulk of a row fills them. 0 where there is but one."""
    step = max(1, values.size // SAMPLE)
    total, count = f32(0), 0
    for e in range(0, values.size, step):
        size = abs(values[e])
        total += size
        count += size > 0
    if count == 0:
        for e in range(values.size):
            total = max(total, abs(values[e]))
        count = 1
    scale = f32(BUCKETS // 4 * count) / total if total > 0 else f32(0)
    return scale if np.isfinite(scale) else f32(0)


@inner
def _coarse(values, scale, places):
    """The bucket of each magnitude: larger ones are never in a lower bucket."""
    for e in range(values.size):
        places[e] = u8(i32(min(abs(values[e]) * scale, f32(BUCKETS - 1))))


@inner
def _count_below(places, counts):
    """counts[0, b]: how many places are below b. Two tables in turn: equal places in a row then do not wait for each other."""
    counts[:] = 0
    one, two = counts[0, 1:], counts[1, 1:]
    even = places.size - places.size % 2
    for e in range(0, even, 2):
        one[places[e]] += u32(1)
        two[places[e + 1]] += u32(1)
    if even < places.size:
        one[places[even]] += u32(1)
    total = u32(0)
    for bucket in range(one.size):
        total = u32(total + one[bucket] + two[bucket])
        one[bucket] = total


@inner
def _contest(coins, low, span, contested):
    """List the entries whose coins lie in [low, low + span): of the others, the coin alone decides. Returns their number."""
    found = u64(0)
    for e in range(coins.size):
        contested[found] = u32(e)
        found += u64(u32(coins[e] - low) < span)
    return found


@inner
def _look_up(values, coins, places, below, limits, listed, count, flags):
    """Keep those that are kept at any rank of their bucket. Lists those of which the rank decides; returns their number."""
    left = u64(0)
    for c in range(count):
        e = listed[c]
        number, place = coins[e], places[e]
        least, most = limits[below[place]], limits[u32(below[place + u32(1)] - u32(1))]
        flags[e] = u8(number < least)
        listed[left] = e
        left += u64((number >= least) & (number < most) & (values[e] != 0))
    return left


@inner
def _smaller(values, size):
    found = i32(0)
    for e in range(values.size):
        found = i32(found + i32(abs(values[e]) < size))
    return np.int64(found)


@inner
def _not_larger(values, size):
    found = i32(0)
    for e in range(values.size):
        found = i32(found + i32(abs(values[e]) <= size))
    return np.int64(found)


@inner
def _rank(values, place):
    """How many entries are smaller, or equal and before this place."""
    size = abs(values[place])
    return _not_larger(values[:place], size) + _smaller(values[place:], size)


@inner
def _rank_falling(values, place):
    """How many entries are larger, or equal and before this place."""
    size = abs(values[place])
    before, behind = values[:place], values[place:]
    return (place - _smaller(before, size)) + (behind.size - _not_larger(behind, size))


@inner
def _sure(coins, low, flags):
    for e in range(coins.size):
        flags[e] = u8(1) if coins[e] < low else u8(0)


@inner
def toss(values, coins, key, first, limits, flags, places, listed, counts, pairs, tallies):
    """Whether each entry of a row is kept: whether its coin lies below the limit of its rank. Zeros are not ranked, as it is
    the same whether they are kept.

    values: a row; coins: int32 room (n,); limits: int32 (n,), rising, by rank from 0; flags: uint8 (n,), the answer; places:
    uint8 room (n,); listed: uint32 room (n + 1,); counts: uint32 room (2, BUCKETS + 1); pairs: uint64 room (2, n);
    tallies: int64 room (4, 256).

    The coins of most entries lie below or above all limits. For the others, counting the row's magnitudes in buckets tells
    between which ranks they lie; and the few that this does not decide are ranked.
    """
    n = values.size
    low = limits[0]
    fill_coins(coins, key, first)
    _sure(coins, low, flags)
    found = _contest(coins, low, u32(limits[n - 1] - low), listed)
    if found == 0:
        return
    _coarse(values, _resolution(values), places)
    _count_below(places, counts)
    found = _look_up(values, coins, places, counts[0], limits, listed, found, flags)
    if found <= SORTED:
        for c in range(found):
            e = listed[c]
            flags[e] = u8(coins[e] < limits[_rank(values, e)])
        return
    order = sort_magnitudes(values, False, pairs[0], pairs[1], tallies)
    for rank in range(n):
        e = np.int64(order[rank] & u64(0xFFFFFFFF))
        flags[e] = u8(coins[e] < limits[rank])


@inner
def _judge(values, places, verdicts, flags, listed):
    """Keep what lies in buckets that are kept. Lists what lies in buckets that are cut; returns how many entries."""
    found = u64(0)
    for e in range(values.size):
        verdict = verdicts[places[e]]
        flags[e] = u8(verdict == _KEPT)
        listed[found] = u32(e)
        found += u64((verdict == _CUT) & (values[e] != 0))
    return found


@inner
def select(values, first, last, flags, places, listed, counts, verdicts, pairs, tallies):
    """Whether each entry's rank by falling magnitude, from 0, lies in [first, last); equal ones rank in their order. Zeros
    are not ranked, as it is the same whether they are kept.

    verdicts: uint8 room (BUCKETS,); for the others see `toss`. Only entries in buckets that a bound cuts are ranked.
    """
    n = values.size
    _coarse(values, _resolution(values), places)
    _count_below(places, counts)
    for bucket in range(BUCKETS):
        start, stop = n - np.int64(counts[0, bucket + 1]), n - np.int64(counts[0, bucket])
        outside = (stop <= first) | (start >= last)
        verdicts[bucket] = _DROPPED if outside else _KEPT if (start >= first) & (stop <= last) else _CUT
    found = _judge(values, places, verdicts, flags, listed)
    if found <= SORTED:
        for c in range(found):
            e = np.int64(listed[c])
            rank = _rank_falling(values, e)
            flags[e] = u8((rank >= first) & (rank < last))
        return
    order = sort_magnitudes(values, True, pairs[0], pairs[1], tallies)
    flags[:] = 0
    for rank in range(first, min(last, n)):
        flags[np.int64(order[rank] & u64(0xFFFFFFFF))] = 1
