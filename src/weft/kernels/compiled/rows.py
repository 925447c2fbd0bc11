"""Ranks within a row: exact, equal magnitudes in their order, by sorting or by looking only where it matters."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from weft.kernels.compiled.jit import inner
from weft.kernels.compiled.storage import MAGNITUDE, bits, f32, i16, i32, u8, u32, u64
from weft.kernels.compiled.thinning import fill_coins
from weft.kernels.compiled.vectors import (
    BOUNDS,
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

COARSE, FINE = 40, 125  # buckets by magnitude: all of them counted, or (a power of five) one found by search
_COARSE_MEAN, _FINE_MEAN = 16, 25  # the bucket of a row's mean magnitude
SAMPLE = 64  # entries of a row that tell its mean
SORTED = 256  # ranks of a row: to find more of them, sorting is faster than counting
MEMBERS = 128  # entries of a bucket that are compared with each other
KEYED = 1 << 17  # comparisons in a row: for more of them, keys of 16 bits are worth making
_CUT = u32(12)  # bits of a magnitude's pattern that a key lacks; 65535 keys are 32 powers of two
_LOWEST, _LARGEST = i32(-32768), i32(MAGNITUDE)
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


class Rooms(NamedTuple):
    """What is needed to work on rows. Rooms are larger than rows, as `vectors.PADDING` says: behind the last entry stand
    zeros, the largest sizes and keys, and no bucket."""

    values: Any  # float32
    sizes: Any  # int32: patterns of magnitudes
    coins: Any  # int32
    places: Any  # int8: buckets
    keys: Any  # int16: magnitudes, shortened
    listed: Any  # uint32: places of entries
    others: Any  # uint32
    inexact: Any  # int16
    counts: Any  # int32
    members: Any  # int32
    pairs: Any  # uint64 (2, n)
    tallies: Any  # int64 (4, 256)


@inner
def make_rooms(n):
    size = -(-n // PADDING) * PADDING
    rooms = Rooms(
        np.zeros(size, np.float32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int8),
        np.empty(size, np.int16),
        np.empty(size + EIGHT, np.uint32),
        np.empty(size + EIGHT, np.uint32),
        np.empty(size, np.int16),
        np.empty(COARSE + BOUNDS, np.int32),
        np.empty(MEMBERS, np.int32),
        np.empty((2, n), np.uint64),
        np.empty((4, 256), np.int64),
    )
    rooms.sizes[n:] = _LARGEST
    rooms.places[n:] = 127
    rooms.keys[n:] = 32767
    return rooms


@inner
def _mean(values):
    """About the mean magnitude of a row, from a sample of what is not zero. 0 where there is none, or no finite one."""
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
    mean = f32(total / f32(count))
    return mean if np.isfinite(mean) else f32(0)


@inner
def _measure(values, at_mean, buckets, sizes, places):
    """The pattern of each magnitude, and its bucket, from 0: larger ones are never in a lower bucket. at_mean: that of the
    mean."""
    mean = _mean(values)
    scale = f32(f32(at_mean) / mean) if mean > 0 else f32(0)
    scale = scale if np.isfinite(scale) else f32(0)
    top = f32(buckets - 1)
    for e in range(values.size):
        sizes[e] = i32(bits(values[e]) & MAGNITUDE)
        places[e] = np.int8(i32(min(top, abs(values[e]) * scale)))


@inner
def _count_places(places, bound, step, counts):
    """How many places are below each of four bounds, `step` apart."""
    counts[:BOUNDS] = 0
    for first in range(0, places.size, 255 * BYTES):
        count_bytes(places, first, min(first + 255 * BYTES, places.size), np.int8(bound), np.int8(step), counts)


@inner
def _rank(sizes, place):
    """How many entries are smaller, or equal and before this place."""
    size = sizes[place]
    return count_below(sizes, sizes.size, place, i32(size + i32(1)), size)


@inner
def _sure(coins, low, flags):
    for e in range(flags.size):
        flags[e] = u8(1) if coins[e] < low else u8(0)


@inner
def _contest(coins, values, low, span, listed):
    """List the entries, other than zeros, whose coins lie in [low, low + span). Returns their number."""
    found = np.int64(0)
    for e in range(0, values.size, EIGHT):
        found = append(listed, found, contested(coins, values, e, low, span), e)
    return found


@inner
def _limit(places, limits, counts):
    """counts[b]: the limit of the lowest rank that an entry of bucket b can have. One more is written, for the upper end."""
    last = limits.size - 1
    counts[0] = 0
    for bucket in range(1, COARSE, BOUNDS):
        _count_places(places, bucket, 1, counts[bucket:])
    for bucket in range(COARSE + 1):
        counts[bucket] = limits[min(np.int64(counts[bucket]), last)]


@inner
def _look_up(coins, places, least, listed, count, flags):
    """Keep those that are kept at any rank of their bucket. Lists those of which the rank decides; returns their number."""
    left = u64(0)
    for c in range(count):
        e = listed[c]
        number, place = coins[e], u32(places[e])
        kept = number < least[place]
        flags[e] = u8(kept)
        listed[left] = e
        left += u64(number < least[u32(place + u32(1))]) - u64(kept)
    return np.int64(left)


@inner
def _shorten(rooms, n):
    """Keys that order the magnitudes of a row, but for few that share one and differ; the keys of those are listed as
    inexact. Returns their number; -1 where they are many, or where magnitudes are too far apart for keys."""
    sizes, keys, inexact = rooms.sizes, rooms.keys, rooms.inexact
    found = np.int64(0)
    for e in range(0, sizes.size, EIGHT):
        found = append(rooms.others, found, having(sizes, e, i32(u32(1) << _CUT) - i32(1)), e)
        if found > n // EIGHT:
            return -1
    top, least = i32(0), _LARGEST
    for e in range(n):
        top = max(top, sizes[e])
        least = min(least, sizes[e] if sizes[e] > 0 else _LARGEST)
    floor = max(i32(0), i32(i32(top >> i32(_CUT)) - i32(65534)))
    if i32(least >> i32(_CUT)) <= floor:
        return -1
    for e in range(n):
        keys[e] = i16(i32(max(i32(sizes[e] >> i32(_CUT)), floor) - floor) + _LOWEST)
    for c in range(found):
        inexact[c] = keys[rooms.others[c]]
    return found


@inner
def _among(keys, key):
    found = u8(0)
    for c in range(keys.size):
        found = u8(found | u8(keys[c] == key))
    return found


@inner
def _rank_by_key(rooms, inexact, place):
    """`_rank`, by keys where these are exact."""
    key, keys = rooms.keys[place], rooms.keys
    if _among(rooms.inexact[:inexact], key):
        return _rank(rooms.sizes, place)
    return count_short_below(keys, keys.size, place, i16(key + i16(1)), key)


@inner
def toss(rooms, key, first, limits, flags):
    """Whether each entry of a row, rooms.values, is kept: whether its coin lies below the limit of its rank. Zeros are not
    ranked, as it is the same whether they are kept.

    limits: int32 (n,), rising, by rank from 0; flags: uint8 (n,), the answer.

    The coins of most entries lie below or above all limits. For the others, counting the row's magnitudes in buckets tells
    between which ranks they lie; and the few that this does not decide are ranked.
    """
    n = flags.size
    low, values, coins, listed = limits[0], rooms.values, rooms.coins, rooms.listed
    fill_coins(coins[:n], key, first)
    _sure(coins, low, flags)
    found = _contest(coins, values, u32(low), u32(limits[n - 1] - low), listed)
    if found == 0:
        return
    _measure(values[:n], _COARSE_MEAN, COARSE, rooms.sizes, rooms.places)
    _limit(rooms.places, limits, rooms.counts)
    found = _look_up(coins, rooms.places, rooms.counts, listed, found, flags)
    if found <= SORTED:
        inexact = _shorten(rooms, n) if found * n > KEYED else -1
        for c in range(found):
            e = np.int64(listed[c])
            rank = _rank(rooms.sizes, e) if inexact < 0 else _rank_by_key(rooms, inexact, e)
            flags[e] = u8(coins[e] < limits[rank])
        return
    order = sort_magnitudes(values[:n], False, rooms.pairs[0], rooms.pairs[1], rooms.tallies)
    for rank in range(n):
        e = np.int64(order[rank] & u64(0xFFFFFFFF))
        flags[e] = u8(coins[e] < limits[rank])


@inner
def _sort_keys(rooms, n):
    """Places in the row by rising key, equal ones in their order: the lower halves of the result's words."""
    keys, words, spare, counts = rooms.keys, rooms.listed, rooms.others, rooms.tallies
    counts[:2] = 0
    for e in range(n):
        key = u32(i32(keys[e]) - _LOWEST)
        words[e] = u32(u32(key << u32(16)) | u32(e))
        counts[0, key & u32(255)] += 1
        counts[1, key >> u32(8)] += 1
    for byte in range(2):
        starts, total = counts[byte], 0
        for value in range(256):
            here = starts[value]
            starts[value] = total
            total += here
        _distribute(words[:n], spare, starts, u64(16 + 8 * byte))
        words, spare = spare, words
    return words


@inner
def _order_run(words, n, key, sizes):
    """Put the entries of one key, which differ, in the order of their magnitudes."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if u32(words[middle] >> u32(16)) < key:
            low = middle + 1
        else:
            high = middle
    place = low + 1
    while place < n and u32(words[place] >> u32(16)) == key:
        word, to = words[place], place
        size = sizes[word & u32(0xFFFF)]
        while to > low and sizes[words[to - 1] & u32(0xFFFF)] > size:
            words[to] = words[to - 1]
            to -= 1
        words[to] = word
        place += 1


@inner
def assign(rooms, steps, given):
    """Give each entry of a row, rooms.values, what its rank by rising magnitude has: given[e] = steps[rank of e]."""
    n = given.size
    values, sizes = rooms.values, rooms.sizes
    for e in range(n):
        sizes[e] = i32(bits(values[e]) & MAGNITUDE)
    inexact = _shorten(rooms, n) if n <= 65536 else -1
    if inexact < 0:
        order = sort_magnitudes(values[:n], False, rooms.pairs[0], rooms.pairs[1], rooms.tallies)
        for rank in range(n):
            given[np.int64(order[rank] & u64(0xFFFFFFFF))] = steps[rank]
        return
    words = _sort_keys(rooms, n)
    for c in range(inexact):
        _order_run(words, n, u32(i32(rooms.inexact[c]) - _LOWEST), sizes)
    for rank in range(n):
        given[words[rank] & u32(0xFFFF)] = steps[rank]


@inner
def _find(places, count, counts):
    """The highest bucket below which there are no more than `count` entries; and how many there are."""
    bucket, below = 0, 0
    step = FINE // 5
    while step:
        _count_places(places, bucket + step, step, counts)
        start = bucket
        for k in range(BOUNDS):
            if counts[k] <= count:
                bucket, below = start + (k + 1) * step, np.int64(counts[k])
        step //= 5
    return bucket, below


@inner
def _split(rooms, bucket, smallest, keep, flags):
    """Drop, of a bucket's entries, the smallest ones, so many, or (keep) all but these. Of equal ones the later are smaller;
    zeros are the smallest, and are left as they are. Returns whether there were few enough to compare them."""
    sizes, listed, members = rooms.sizes, rooms.listed, rooms.members
    found, count = np.int64(0), 0
    for e in range(0, sizes.size, EIGHT):
        found = append(listed, found, equal(rooms.places, e, np.int8(bucket)), e)
    if found > MEMBERS:
        return False
    for c in range(found):
        e = listed[c]
        members[count] = sizes[e]
        listed[count] = e
        count += sizes[e] != 0
    whole = -(-count // EIGHT) * EIGHT
    members[count:whole] = _LARGEST
    smallest -= found - count
    for c in range(count):
        size = members[c]
        smaller = count_below(members, whole, c, size, i32(size + i32(1))) - 1
        if (smaller < smallest) != keep:
            flags[listed[c]] = 0
    return True


@inner
def _between(places, low, high, flags):
    for e in range(flags.size):
        flags[e] = u8((places[e] >= low) & (places[e] <= high))


@inner
def select(rooms, first, last, flags):
    """Whether the rank of each entry of a row, rooms.values, by falling magnitude, from 0, lies in [first, last); equal ones
    rank in their order. Zeros are not ranked, as it is the same whether they are kept. flags: uint8 (n,), the answer.

    Only entries in buckets that a bound cuts are ranked.
    """
    n = flags.size
    values, places = rooms.values[:n], rooms.places
    _measure(values, _FINE_MEAN, FINE, rooms.sizes, places)
    low, below_low = _find(places, n - last, rooms.counts)
    high, below_high = _find(places, n - first, rooms.counts)
    _between(places, np.int8(low), np.int8(high), flags)
    few = last >= n or _split(rooms, low, n - last - below_low, False, flags)
    if few and (first <= 0 or _split(rooms, high, n - first - below_high, True, flags)):
        return
    order = sort_magnitudes(values, True, rooms.pairs[0], rooms.pairs[1], rooms.tallies)
    flags[:] = 0
    for rank in range(first, min(last, n)):
        flags[np.int64(order[rank] & u64(0xFFFFFFFF))] = 1
