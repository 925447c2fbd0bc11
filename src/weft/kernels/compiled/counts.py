"""Histograms of magnitudes, by the upper and the lower half of their float32 pattern."""

from __future__ import annotations

import numpy as np

from weft.kernels.compiled.jit import inner, kernel
from weft.kernels.compiled.storage import STEP, bits, decode, decode_vector, i32

_u16, _u32 = np.uint16, np.uint32
_GROUP = 64


@inner
def _patterns(values, patterns):
    for e in range(values.size):
        patterns[e] = bits(abs(values[e]))


@inner
def _upper(patterns, upper):
    for e in range(patterns.size):
        upper[e] = _u16(patterns[e] >> _u32(16))


@inner
def _count(bins, a, b, c, d):
    """Four tables in turn: equal values in a row, which are common, then do not wait for each other."""
    whole = bins.size - bins.size % 4
    for e in range(0, whole, 4):
        a[bins[e]] += _u32(1)
        b[bins[e + 1]] += _u32(1)
        c[bins[e + 2]] += _u32(1)
        d[bins[e + 3]] += _u32(1)
    for e in range(whole, bins.size):
        a[bins[e]] += _u32(1)


@kernel
def count_high(raw, codes, n, has_base, counts):
    """Count the magnitudes by upper half of their pattern. See `weft.kernels.readable.count_high`."""
    buffers = np.empty((2, STEP), np.float32)
    patterns, halves = np.empty(STEP, np.uint32), np.empty(STEP, np.uint16)
    tables = np.empty((4, 32768 + 256), np.uint32)  # 4 KiB apart, a store would stall another table's load
    status = np.int64(0)
    for i in range(counts.shape[0]):
        tables[:] = 0
        for start in range(0, n, STEP):
            count = min(STEP, n - start)
            values, base, upper = buffers[0, :count], buffers[1, :count], halves[:count]
            if has_base:
                status |= decode(raw[0], codes[0], start, base)
            status |= decode_vector(raw, codes, i + has_base, start, has_base, base, values)
            _patterns(values, patterns[:count])
            _upper(patterns[:count], upper)
            _count(upper, tables[0], tables[1], tables[2], tables[3])
        for value in range(32768):
            for t in range(4):
                counts[i, value] += np.int64(tables[t, value])
    return status


@inner
def _count_above(patterns, limit):
    above = i32(0)
    for e in range(patterns.size):
        above = i32(above + i32(patterns[e] >= limit))
    return np.int64(above)


@inner
def _count_inside(patterns, first, counts):
    """Add to counts[p - first] for the patterns p inside. They are few: look at _GROUP of them at a time."""
    width = _u32(counts.size)
    whole = patterns.size - patterns.size % _GROUP
    for start in range(0, whole, _GROUP):
        found = _u32(0)
        for e in range(_GROUP):
            found |= _u32(_u32(patterns[start + e] - first) < width)
        if found:
            _count_each(patterns[start : start + _GROUP], first, counts)
    _count_each(patterns[whole:], first, counts)


@inner
def _count_each(patterns, first, counts):
    width = _u32(counts.size)
    for e in range(patterns.size):
        place = _u32(patterns[e] - first)
        if place < width:
            counts[place] += 1


@kernel
def count_low(raw, codes, n, has_base, first, counts, above):
    """Count the magnitudes in and above windows of patterns. See `weft.kernels.readable.count_low`."""
    k, windows, width = counts.shape
    buffers, patterns_buffer = np.empty((2, STEP), np.float32), np.empty(STEP, np.uint32)
    status = np.int64(0)
    for start in range(0, n, STEP):
        count = min(STEP, n - start)
        values, base, patterns = buffers[0, :count], buffers[1, :count], patterns_buffer[:count]
        if has_base:
            status |= decode(raw[0], codes[0], start, base)
        for i in range(k):
            status |= decode_vector(raw, codes, i + has_base, start, has_base, base, values)
            _patterns(values, patterns)
            for w in range(windows):
                if first[i, w] >= 0:
                    origin = _u32(first[i, w] << 16)
                    above[i, w] += _count_above(patterns, _u32(origin + width))
                    _count_inside(patterns, origin, counts[i, w])
    return status
