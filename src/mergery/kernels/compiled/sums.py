"""Sums over aligned blocks, in float64 and in one fixed order."""

from __future__ import annotations

import numpy as np

from mergery.kernels import BLOCK, LANES
from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.storage import STEP, decode, decode_vector
from mergery.kernels.compiled.thinning import drop, threshold, within

_AT_ONCE = 8  # elements of a lane; a whole step has so many


@inner
def _products_of_step(a, b, lanes):
    """Of a whole step: the compiler keeps a lane's sum in a register."""
    for e in range(LANES):
        total = lanes[e]
        total += np.float64(a[e]) * np.float64(b[e])
        total += np.float64(a[LANES + e]) * np.float64(b[LANES + e])
        total += np.float64(a[2 * LANES + e]) * np.float64(b[2 * LANES + e])
        total += np.float64(a[3 * LANES + e]) * np.float64(b[3 * LANES + e])
        total += np.float64(a[4 * LANES + e]) * np.float64(b[4 * LANES + e])
        total += np.float64(a[5 * LANES + e]) * np.float64(b[5 * LANES + e])
        total += np.float64(a[6 * LANES + e]) * np.float64(b[6 * LANES + e])
        total += np.float64(a[7 * LANES + e]) * np.float64(b[7 * LANES + e])
        lanes[e] = total


@inner
def add_products(first, second, lanes):
    if first.size == LANES * _AT_ONCE:
        _products_of_step(first, second, lanes)
        return
    for start in range(0, first.size, LANES):
        count = min(LANES, first.size - start)
        a, b = first[start : start + count], second[start : start + count]
        for e in range(count):
            lanes[e] += np.float64(a[e]) * np.float64(b[e])


@inner
def _sizes_of_step(values, least, most, lanes):
    for e in range(LANES):
        total = lanes[e]
        total += np.float64(abs(within(values[e], least, most)))
        total += np.float64(abs(within(values[LANES + e], least, most)))
        total += np.float64(abs(within(values[2 * LANES + e], least, most)))
        total += np.float64(abs(within(values[3 * LANES + e], least, most)))
        total += np.float64(abs(within(values[4 * LANES + e], least, most)))
        total += np.float64(abs(within(values[5 * LANES + e], least, most)))
        total += np.float64(abs(within(values[6 * LANES + e], least, most)))
        total += np.float64(abs(within(values[7 * LANES + e], least, most)))
        lanes[e] = total


@inner
def add_sizes(values, least, most, lanes):
    """Add the magnitudes that lie in [least, most] to lanes."""
    if values.size == LANES * _AT_ONCE:
        _sizes_of_step(values, least, most, lanes)
        return
    for start in range(0, values.size, LANES):
        part = values[start : start + LANES]
        for e in range(part.size):
            lanes[e] += np.float64(abs(within(part[e], least, most)))


@inner
def _magnitudes_of_run(values, flags, every, kept):
    for e in range(LANES):
        a, b = every[e], kept[e]
        size = np.float64(abs(values[e]))
        a, b = a + size, b + (size if flags[e] else 0.0)
        size = np.float64(abs(values[LANES + e]))
        a, b = a + size, b + (size if flags[LANES + e] else 0.0)
        size = np.float64(abs(values[2 * LANES + e]))
        a, b = a + size, b + (size if flags[2 * LANES + e] else 0.0)
        size = np.float64(abs(values[3 * LANES + e]))
        a, b = a + size, b + (size if flags[3 * LANES + e] else 0.0)
        every[e], kept[e] = a, b


@inner
def add_magnitudes(values, flags, place, every, kept):
    """Add all magnitudes to the lanes `every`, and those that are flagged to `kept`. place: of the first, in its block."""
    start, size = 0, values.size
    if place % LANES == 0:
        while start + 4 * LANES <= size:
            _magnitudes_of_run(values[start : start + 4 * LANES], flags[start : start + 4 * LANES], every, kept)
            start += 4 * LANES
    while start < size:
        lane = (place + start) % LANES
        count = min(LANES - lane, size - start)
        for e in range(count):
            size_of = np.float64(abs(values[start + e]))
            every[lane + e] += size_of
            kept[lane + e] += size_of if flags[start + e] else 0.0
        start += count


@inner
def _fold(lanes, width):
    for lane in range(width):
        lanes[lane] += lanes[lane + width]


@inner
def total_of(lanes):
    """The sum of lanes, halved again and again; in steps of constant width, which the compiler vectorises. It leaves them
    changed."""
    _fold(lanes, LANES // 2)
    _fold(lanes, LANES // 4)
    _fold(lanes, LANES // 8)
    _fold(lanes, LANES // 16)
    _fold(lanes, LANES // 32)
    _fold(lanes, LANES // 64)
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])


@kernel
def gram(raw, codes, n, has_base, out):
    """Inner products of the vectors, for each BLOCK elements. See `mergery.kernels.readable.gram`."""
    k = codes.size - has_base
    base_buffer, buffers = np.empty(STEP, np.float32), np.empty((k, STEP), np.float32)
    lanes = np.empty((k, k, LANES))
    status = np.int64(0)
    for block in range(out.shape[0]):
        lanes[:] = 0
        end = min((block + 1) * BLOCK, n)
        for start in range(block * BLOCK, end, STEP):
            count = min(STEP, end - start)
            base = base_buffer[:count]
            if has_base:
                status |= decode(raw[0], codes[0], start, base)
            for i in range(k):
                status |= decode_vector(raw, codes, i + has_base, start, has_base, base, buffers[i, :count])
            for i in range(k):
                for j in range(i, k):
                    add_products(buffers[i, :count], buffers[j, :count], lanes[i, j])
        for i in range(k):
            for j in range(i, k):
                out[block, i, j] = out[block, j, i] = total_of(lanes[i, j])
    return status


@kernel
def l1_norms(raw, codes, n, offset, keys, least, most, probability, random, out):
    """L1 norms of the deltas before and after thinning. See `mergery.kernels.readable.l1_norms`."""
    k = codes.size - 1
    buffers = np.empty((2, STEP), np.float32)
    lanes = np.empty((k, 2, LANES))
    status = np.int64(0)
    for block in range(out.shape[0]):
        lanes[:] = 0
        end = min((block + 1) * BLOCK, n)
        for start in range(block * BLOCK, end, STEP):
            count = min(STEP, end - start)
            base, values = buffers[0, :count], buffers[1, :count]
            status |= decode(raw[0], codes[0], start, base)
            for i in range(k):
                status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
                add_sizes(values, np.float32(0), np.float32(np.inf), lanes[i, 0])
                if random:
                    drop(values, keys[i], offset + start, threshold(probability[i]))
                add_sizes(values, least[i], most[i], lanes[i, 1])
        for i in range(k):
            out[block, i, 0], out[block, i, 1] = total_of(lanes[i, 0]), total_of(lanes[i, 1])
    return status
