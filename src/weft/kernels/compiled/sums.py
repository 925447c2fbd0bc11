"""Sums over aligned blocks, in float64 and in one fixed order."""

from __future__ import annotations

import numpy as np

from weft.kernels import BLOCK, LANES
from weft.kernels.compiled.jit import inner, kernel
from weft.kernels.compiled.storage import STEP, decode, decode_vector
from weft.kernels.compiled.thinning import coins, thin, threshold


@inner
def _add_products(first, second, lanes):
    for start in range(0, first.size, LANES):
        count = min(LANES, first.size - start)
        a, b = first[start : start + count], second[start : start + count]
        for e in range(count):
            lanes[e] += np.float64(a[e]) * np.float64(b[e])


@inner
def _add_sizes(values, lanes):
    for start in range(0, values.size, LANES):
        part = values[start : start + LANES]
        for e in range(part.size):
            lanes[e] += np.float64(abs(part[e]))


@inner
def _total(lanes):
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total


@kernel
def gram(raw, codes, n, has_base, out):
    """Inner products of the vectors, for each BLOCK elements. See `weft.kernels.readable.gram`."""
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
                    _add_products(buffers[i, :count], buffers[j, :count], lanes[i, j])
        for i in range(k):
            for j in range(i, k):
                out[block, i, j] = out[block, j, i] = _total(lanes[i, j])
    return status


@kernel
def masses(raw, codes, n, offset, keys, least, most, probability, random, out):
    """L1 norms of the deltas before and after thinning. See `weft.kernels.readable.masses`."""
    k = codes.size - 1
    buffers = np.empty((2, STEP), np.float32)
    words = np.zeros(STEP // 2 + 1, np.uint64)
    lanes = np.empty((k, 2, LANES))
    lead = offset % 2
    limit, one = np.int32(1), np.float32(1)
    status = np.int64(0)
    for block in range(out.shape[0]):
        lanes[:] = 0
        end = min((block + 1) * BLOCK, n)
        for start in range(block * BLOCK, end, STEP):
            count = min(STEP, end - start)
            base, values = buffers[0, :count], buffers[1, :count]
            coin = words.view(np.int32)[lead : lead + count]
            status |= decode(raw[0], codes[0], start, base)
            for i in range(k):
                status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
                _add_sizes(values, lanes[i, 0])
                if random:
                    coins(keys[i], (offset + start) // 2, words[: (lead + count + 1) // 2])
                    limit = threshold(probability[i])
                thin(values, coin, least[i], most[i], limit, one, one)
                _add_sizes(values, lanes[i, 1])
        for i in range(k):
            out[block, i, 0], out[block, i, 1] = _total(lanes[i, 0]), _total(lanes[i, 1])
    return status
