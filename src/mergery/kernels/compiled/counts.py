"""Histograms of magnitudes, by the upper and the lower half of their float32 pattern."""

from __future__ import annotations

import numpy as np

from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.patterns import MAGNITUDE, bits, i32, u8, u16, u32, u64
from mergery.kernels.compiled.storage import STEP, decode, decode_vector

_PLACES = u64(0x0001020304050607)  # times a power of 256: its exponent, in the highest byte


@inner
def _patterns(values, patterns):
    for e in range(values.size):
        patterns[e] = bits(abs(values[e]))


@inner
def _upper(patterns, upper):
    for e in range(patterns.size):
        upper[e] = u16(patterns[e] >> u32(16))


@inner
def _count(bins, a, b, c, d):
    """Four tables in turn: equal values in a row, which are common, then do not wait for each other."""
    whole = bins.size - bins.size % 4
    for e in range(0, whole, 4):
        a[bins[e]] += u32(1)
        b[bins[e + 1]] += u32(1)
        c[bins[e + 2]] += u32(1)
        d[bins[e + 3]] += u32(1)
    for e in range(whole, bins.size):
        a[bins[e]] += u32(1)


@inner
def _count_few(bins, counts):
    for e in range(bins.size):
        counts[bins[e]] += 1


@kernel
def count_high(raw, codes, n, has_base, counts):
    """Count the magnitudes by upper half of their pattern. See `mergery.kernels.readable.count_high`."""
    buffers = np.empty((2, STEP), np.float32)
    patterns, uppers = np.empty(STEP, np.uint32), np.empty(STEP, np.uint16)
    tables = np.empty((4, 32768 + 256), np.uint32)  # 4 KiB apart, a store would stall another table's load
    status = np.int64(0)
    few = n < counts.shape[1]  # then tables would take longer than the entries
    for i in range(counts.shape[0]):
        if not few:
            tables[:] = 0
        for start in range(0, n, STEP):
            count = min(STEP, n - start)
            values, base, upper = buffers[0, :count], buffers[1, :count], uppers[:count]
            if has_base:
                status |= decode(raw[0], codes[0], start, base)
            status |= decode_vector(raw, codes, i + has_base, start, has_base, base, values)
            _patterns(values, patterns[:count])
            _upper(patterns[:count], upper)
            if few:
                _count_few(upper, counts[i])
            else:
                _count(upper, tables[0], tables[1], tables[2], tables[3])
        if not few:
            for value in range(counts.shape[1]):
                for t in range(4):
                    counts[i, value] += np.int64(tables[t, value])
    return status


@inner
def _sift(values, first, width, inside):
    """Flag the magnitudes whose pattern lies in [first, first + width). Returns how many lie above."""
    above = i32(0)
    for e in range(values.size):
        place = i32(i32(bits(values[e]) & MAGNITUDE) - first)
        above = i32(above + i32(place >= width))
        inside[e] = u8(u32(place) < u32(width))
    return np.int64(above)


@inner
def _count_flagged(values, inside, first, counts):
    """Add to counts[p - first] for the flagged patterns p. They are few: most eights of flags are zero."""
    eights = inside.view(np.uint64)
    for eight in range(eights.size):
        flags = eights[eight]
        while flags:
            e = u32(u32(8 * eight) + u32(u64((flags & (u64(0) - flags)) * _PLACES) >> u64(56)))
            counts[u32(u32(bits(values[e]) & MAGNITUDE) - first)] += 1
            flags &= u64(flags - u64(1))


@kernel
def count_low(raw, codes, n, has_base, first, counts, above):
    """Count the magnitudes in and above windows of patterns. See `mergery.kernels.readable.count_low`."""
    k, windows, width = counts.shape
    buffers, inside = np.empty((2, STEP), np.float32), np.empty(STEP, np.uint8)
    status = np.int64(0)
    for start in range(0, n, STEP):
        count = min(STEP, n - start)
        values, base = buffers[0, :count], buffers[1, :count]
        inside[count:] = 0
        if has_base:
            status |= decode(raw[0], codes[0], start, base)
        for i in range(k):
            status |= decode_vector(raw, codes, i + has_base, start, has_base, base, values)
            for w in range(windows):
                if first[i, w] >= 0:
                    origin = i32(first[i, w] << 16)
                    above[i, w] += _sift(values, origin, i32(width), inside[:count])
                    _count_flagged(values, inside[: -(-count // 8) * 8], u32(origin), counts[i, w])
    return status
