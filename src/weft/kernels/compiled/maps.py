"""Element-wise merging: stored inputs to stored output in one pass."""

from __future__ import annotations

import numpy as np

from weft.dtypes import BF16, F16, F32, F64
from weft.kernels.compiled.jit import inner, kernel
from weft.kernels.compiled.storage import STEP, decode, decode_vector, encode, f32
from weft.kernels.compiled.thinning import coins, thin, threshold

_OVERFLOW = np.int64(1 << 62)
_SIZES = tuple(dtype.itemsize for dtype in (BF16, F16, F32, F64))  # by code


@inner
def _add(total, coefficient, values, first):
    """total += coefficient * values; the first model sets it."""
    if first:
        for e in range(values.size):
            total[e] = coefficient * values[e]
    else:
        for e in range(values.size):
            total[e] += coefficient * values[e]


@kernel
def mix(raw, codes, n, has_base, coefficients, out, out_code):
    """Mix linearly. See `weft.kernels.readable.mix`."""
    buffers = np.empty((3, STEP), np.float32)
    rows, k = coefficients.shape
    columns = n // rows
    status = np.int64(0)
    for row in range(rows):
        end = (row + 1) * columns
        for start in range(row * columns, end, STEP):
            count = min(STEP, end - start)
            base, values, total = buffers[0, :count], buffers[1, :count], buffers[2, :count]
            if has_base:
                status |= decode(raw[0], codes[0], start, base)
            for i in range(k):
                status |= decode_vector(raw, codes, i + has_base, start, has_base, base, values)
                _add(total, coefficients[row, i], values, i == 0)
            if has_base:
                for e in range(count):
                    total[e] += base[e]
            if encode(total, out, out_code, start):
                status |= _OVERFLOW
    return status


@inner
def _vote(values, up, down):
    for e in range(values.size):
        value = values[e]
        up[e] += value if value > 0 else f32(0)
        down[e] += value if value < 0 else f32(0)


@inner
def _share(values, weight, up, down):
    for e in range(values.size):
        value = values[e]
        up[e] += weight if value > 0 else f32(0)
        down[e] += weight if value < 0 else f32(0)


@inner
def _extreme(values, highest, lowest):
    for e in range(values.size):
        value = values[e]
        highest[e] = value if value > highest[e] else highest[e]
        lowest[e] = value if value < lowest[e] else lowest[e]


@inner
def _elect(up, down, zero_wins, ours, theirs, total):
    for e in range(total.size):
        vote = up[e] + down[e]
        total[e] = ours[e] if vote > 0 or (vote == 0 and zero_wins) else theirs[e]


@inner
def _normalize(up, down, zero_wins, up_share, down_share, total):
    for e in range(total.size):
        vote = up[e] + down[e]
        share = up_share[e] if vote > 0 or (vote == 0 and zero_wins) else down_share[e]
        total[e] /= share if share != 0 else f32(1)


@kernel
def agree(
    raw, codes, n, offset, keys, weight, least, most, probability, gain,
    random, elect, normalize, divisor, scale, out, out_code,
):  # fmt: skip
    """Thin, weigh, elect and sum task vectors. See `weft.kernels.readable.agree`."""
    k = codes.size - 1
    buffers = np.empty((7, STEP), np.float32)
    words = np.zeros(STEP // 2 + 1, np.uint64)
    lead = offset % 2
    limit = np.int32(1)
    status = np.int64(0)
    for start in range(0, n, STEP):
        count = min(STEP, n - start)
        base, values, total = buffers[0, :count], buffers[1, :count], buffers[2, :count]
        up, down = buffers[3, :count], buffers[4, :count]
        up_share, down_share = buffers[5, :count], buffers[6, :count]
        coin = words.view(np.int32)[lead : lead + count]
        buffers[2:] = 0
        status |= decode(raw[0], codes[0], start, base)
        for i in range(k):
            status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
            if random:
                coins(keys[i], (offset + start) // 2, words[: (lead + count + 1) // 2])
                limit = threshold(probability[i])
            thin(values, coin, least[i], most[i], limit, gain[i], weight[i])
            if not elect:
                _add(total, f32(1), values, False)
                continue
            _vote(values, up, down)
            if normalize == 1:
                _share(values, weight[i], up_share, down_share)
            elif normalize == 2:
                _extreme(values, up_share, down_share)
        if elect and normalize == 2:
            _elect(up, down, elect > 0, up_share, down_share, total)
        elif elect:
            _elect(up, down, elect > 0, up, down, total)
            if normalize:
                _normalize(up, down, elect > 0, up_share, down_share, total)
        elif normalize:
            total /= f32(divisor)
        for e in range(count):
            total[e] = base[e] + f32(scale) * total[e]
        if encode(total, out, out_code, start):
            status |= _OVERFLOW
    return status


@kernel
def convert(row, code, n, out, out_code):
    """Write a stored row in another type. See `weft.kernels.readable.convert`."""
    buffer = np.empty(STEP, np.float32)
    status = np.int64(0)
    for start in range(0, n, STEP):
        values = buffer[: min(STEP, n - start)]
        status |= decode(row, code, start, values)
        if code != out_code and encode(values, out, out_code, start):
            status |= _OVERFLOW
    if code == out_code:
        for byte in range(n * _SIZES[code]):
            out[byte] = row[byte]
    return status
