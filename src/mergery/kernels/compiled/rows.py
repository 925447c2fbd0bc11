"""Ranks within a row: exact, equal magnitudes in their order, found by looking only where it matters."""

from __future__ import annotations

import numpy as np

from mergery.kernels.compiled.jit import inner
from mergery.kernels.compiled.patterns import MAGNITUDE, bits, f32, i16, i32, u8, u32, u64
from mergery.kernels.compiled.scratch import COARSE, FINE, LARGEST, MEMBERS, shorten
from mergery.kernels.compiled.sorting import sort_magnitudes
from mergery.kernels.compiled.thinning import fill_coins
from mergery.kernels.compiled.vectors import (
    BOUNDS,
    BYTES,
    EIGHT,
    append,
    contested,
    count_below,
    count_bytes,
    count_short_below,
    equal,
)

_COARSE_MEAN, _FINE_MEAN = 16, 25  # the bucket of a row's mean magnitude
SAMPLE = 64  # entries of a row that tell its mean
SORTED = 256  # ranks of a row: to find more of them, sorting is faster than counting
KEYED = 1 << 17  # comparisons in a row: for more of them, keys of 16 bits are worth making


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
def _among(keys, key):
    found = u8(0)
    for c in range(keys.size):
        found = u8(found | u8(keys[c] == key))
    return found


@inner
def _rank_by_key(scratch, inexact, place):
    """`_rank`, by keys where these are exact."""
    key, keys = scratch.keys[place], scratch.keys
    if _among(scratch.inexact[:inexact], key):
        return _rank(scratch.sizes, place)
    return count_short_below(keys, keys.size, place, i16(key + i16(1)), key)


@inner
def toss(scratch, key, first, limits, flags):
    """Whether each entry of a row, scratch.values, is kept: whether its coin lies below the limit of its rank. Zeros are not
    ranked, as it is the same whether they are kept.

    limits: int32 (n,), rising, by rank from 0; flags: uint8 (n,), the answer.

    The coins of most entries lie below or above all limits. For the others, counting the row's magnitudes in buckets tells
    between which ranks they lie; and the few that this does not decide are ranked.
    """
    n = flags.size
    low, values, coins, listed = limits[0], scratch.values, scratch.coins, scratch.listed
    fill_coins(coins[:n], key, first)
    _sure(coins, low, flags)
    found = _contest(coins, values, u32(low), u32(limits[n - 1] - low), listed)
    if found == 0:
        return
    _measure(values[:n], _COARSE_MEAN, COARSE, scratch.sizes, scratch.places)
    _limit(scratch.places, limits, scratch.counts)
    found = _look_up(coins, scratch.places, scratch.counts, listed, found, flags)
    if found <= SORTED:
        inexact = shorten(scratch, n) if found * n > KEYED else -1
        for c in range(found):
            e = np.int64(listed[c])
            rank = _rank(scratch.sizes, e) if inexact < 0 else _rank_by_key(scratch, inexact, e)
            flags[e] = u8(coins[e] < limits[rank])
        return
    order = sort_magnitudes(values[:n], False, scratch.pairs[0], scratch.pairs[1], scratch.tallies)
    for rank in range(n):
        e = np.int64(order[rank] & u64(0xFFFFFFFF))
        flags[e] = u8(coins[e] < limits[rank])


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
def _split(scratch, bucket, smallest, keep, flags):
    """Drop, of a bucket's entries, the smallest ones, so many, or (keep) all but these. Of equal ones the later are smaller;
    zeros are the smallest, and are left as they are. Returns whether there were few enough to compare them."""
    sizes, listed, members = scratch.sizes, scratch.listed, scratch.members
    found, count = np.int64(0), 0
    for e in range(0, sizes.size, EIGHT):
        found = append(listed, found, equal(scratch.places, e, np.int8(bucket)), e)
    if found > MEMBERS:
        return False
    for c in range(found):
        e = listed[c]
        members[count] = sizes[e]
        listed[count] = e
        count += sizes[e] != 0
    whole = -(-count // EIGHT) * EIGHT
    members[count:whole] = LARGEST
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
def select(scratch, first, last, flags):
    """Whether the rank of each entry of a row, scratch.values, by falling magnitude, from 0, lies in [first, last); equal ones
    rank in their order. Zeros are not ranked, as it is the same whether they are kept. flags: uint8 (n,), the answer.

    Only entries in buckets that a bound cuts are ranked.
    """
    n = flags.size
    values, places = scratch.values[:n], scratch.places
    _measure(values, _FINE_MEAN, FINE, scratch.sizes, places)
    low, below_low = _find(places, n - last, scratch.counts)
    high, below_high = _find(places, n - first, scratch.counts)
    _between(places, np.int8(low), np.int8(high), flags)
    few = last >= n or _split(scratch, low, n - last - below_low, False, flags)
    if few and (first <= 0 or _split(scratch, high, n - first - below_high, True, flags)):
        return
    order = sort_magnitudes(values, True, scratch.pairs[0], scratch.pairs[1], scratch.tallies)
    flags[:] = 0
    for rank in range(first, min(last, n)):
        flags[np.int64(order[rank] & u64(0xFFFFFFFF))] = 1
