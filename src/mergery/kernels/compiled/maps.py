"""Element-wise merging: stored inputs to stored output in one pass."""

from __future__ import annotations

import numpy as np

from mergery.dtypes import BF16, F16, F32, F64
from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.patterns import INFINITY, MAGNITUDE, f32, i32, real, u32
from mergery.kernels.compiled.storage import STEP, decode, decode_vector, encode
from mergery.kernels.compiled.thinning import drop, threshold, within

OVERFLOW = np.int64(1 << 62)
_BF16 = BF16.code
_SIZES = tuple(dtype.itemsize for dtype in (BF16, F16, F32, F64))  # by code


@inner
def _set(total, coefficient, values):
    for e in range(values.size):
        total[e] = coefficient * values[e]


@inner
def _add(total, coefficient, values):
    for e in range(values.size):
        total[e] += coefficient * values[e]


@inner
def _set_two(total, one, first, two, second):
    """total = one * first + two * second, from bfloat16. Returns the largest pattern of a magnitude."""
    top_a, top_b = i32(0), i32(0)
    for e in range(first.size):
        a, b = u32(u32(first[e]) << u32(16)), u32(u32(second[e]) << u32(16))
        of_a, of_b = i32(a & MAGNITUDE), i32(b & MAGNITUDE)
        top_a = of_a if of_a > top_a else top_a
        top_b = of_b if of_b > top_b else top_b
        total[e] = one * real(a) + two * real(b)
    return max(top_a, top_b)


@inner
def _add_one(total, one, first):
    top = i32(0)
    for e in range(first.size):
        a = u32(u32(first[e]) << u32(16))
        size = i32(a & MAGNITUDE)
        top = size if size > top else top
        total[e] += one * real(a)
    return top


@inner
def _set_two_deltas(total, base, one, first, two, second):
    top_a, top_b = i32(0), i32(0)
    for e in range(first.size):
        a, b = u32(u32(first[e]) << u32(16)), u32(u32(second[e]) << u32(16))
        of_a, of_b = i32(a & MAGNITUDE), i32(b & MAGNITUDE)
        top_a = of_a if of_a > top_a else top_a
        top_b = of_b if of_b > top_b else top_b
        total[e] = one * (real(a) - base[e]) + two * (real(b) - base[e])
    return max(top_a, top_b)


@inner
def _add_one_delta(total, base, one, first):
    top = i32(0)
    for e in range(first.size):
        a = u32(u32(first[e]) << u32(16))
        size = i32(a & MAGNITUDE)
        top = size if size > top else top
        total[e] += one * (real(a) - base[e])
    return top


@inner
def _bf16(raw, j, start, count):
    return raw[j, 2 * start : 2 * (start + count)].view(np.uint16)


@inner
def _mix_bf16(raw, start, has_base, coefficients, base, total):
    """Mix two or more rows, all of bfloat16. Returns whether a value is not finite."""
    count, k, one, two = total.size, coefficients.size, coefficients[0], coefficients[1]
    first, second = _bf16(raw, has_base, start, count), _bf16(raw, has_base + 1, start, count)
    if has_base:
        top = _set_two_deltas(total, base, one, first, two, second)
    else:
        top = _set_two(total, one, first, two, second)
    bad = top >= i32(INFINITY)
    for i in range(2, k):
        more = _bf16(raw, has_base + i, start, count)
        if has_base:
            top = _add_one_delta(total, base, coefficients[i], more)
        else:
            top = _add_one(total, coefficients[i], more)
        bad |= top >= i32(INFINITY)
    return bad


@kernel
def mix(raw, codes, n, has_base, coefficients, out, out_code):
    """Mix linearly. See `mergery.kernels.readable.mix`."""
    buffers = np.empty((3, STEP), np.float32)
    rows, k = coefficients.shape
    columns = n // rows
    status = np.int64(0)
    alike = k > 1 and (codes[has_base:] == _BF16).all()
    for row in range(rows):
        end = (row + 1) * columns
        for start in range(row * columns, end, STEP):
            count = min(STEP, end - start)
            base, values, total = buffers[0, :count], buffers[1, :count], buffers[2, :count]
            if has_base:
                status |= decode(raw[0], codes[0], start, base)
            if alike:
                if _mix_bf16(raw, start, has_base, coefficients[row], base, total):
                    for i in range(k):  # to say which
                        status |= decode_vector(raw, codes, i + has_base, start, has_base, base, values)
            else:
                for i in range(k):
                    status |= decode_vector(raw, codes, i + has_base, start, has_base, base, values)
                    if i == 0:
                        _set(total, coefficients[row, 0], values)
                    else:
                        _add(total, coefficients[row, i], values)
            if has_base:
                for e in range(count):
                    total[e] += base[e]
            if encode(total, out, out_code, start):
                status |= OVERFLOW
    return status


# Sections of one buffer, a constant distance apart, so that the compiler knows that they do not overlap: it checks only a
# few pairs of arrays before it gives up vectorising a loop.
_VALUES, _UP, _DOWN, _UP_SHARE, _DOWN_SHARE = 0, STEP, 2 * STEP, 3 * STEP, 4 * STEP


@inner
def _sum(work, count, least, most, gain, weight):
    for e in range(count):
        work[_UP + e] += (within(work[_VALUES + e], least, most) * gain) * weight


@inner
def _vote(work, count, least, most, gain, weight):
    for e in range(count):
        value = (within(work[_VALUES + e], least, most) * gain) * weight
        work[_UP + e] += value if value > 0 else f32(0)
        work[_DOWN + e] += value if value < 0 else f32(0)


@inner
def _vote_and_share(work, count, least, most, gain, weight):
    for e in range(count):
        value = (within(work[_VALUES + e], least, most) * gain) * weight
        work[_UP + e] += value if value > 0 else f32(0)
        work[_DOWN + e] += value if value < 0 else f32(0)
        work[_UP_SHARE + e] += weight if value > 0 else f32(0)
        work[_DOWN_SHARE + e] += weight if value < 0 else f32(0)


@inner
def _extreme(work, count, least, most, gain, weight):
    for e in range(count):
        value = (within(work[_VALUES + e], least, most) * gain) * weight
        highest, lowest = work[_UP_SHARE + e], work[_DOWN_SHARE + e]
        work[_UP_SHARE + e] = value if value > highest else highest
        work[_DOWN_SHARE + e] = value if value < lowest else lowest


@inner
def _weigh(work, count, least, most, gain, weight):
    """Each side's weighted sum, of a vote in which all count alike."""
    for e in range(count):
        ballot = within(work[_VALUES + e], least, most) * gain
        value = ballot * weight
        work[_UP_SHARE + e] += value if ballot > 0 else f32(0)
        work[_DOWN_SHARE + e] += value if ballot < 0 else f32(0)


@inner
def _elect(work, count, even):
    """The sum of the side that won. `even` is 1 where a vote of 0 is ours."""
    for e in range(count):
        up, down = work[_UP + e], work[_DOWN + e]
        vote = up + down
        won = (vote > 0) | ((vote == 0) & (even > 0))
        work[_VALUES + e] = up if won else down


@inner
def _elect_apart(work, count, even):
    """What stands in the shares of the side that won."""
    for e in range(count):
        up, down = work[_UP_SHARE + e], work[_DOWN_SHARE + e]
        vote = work[_UP + e] + work[_DOWN + e]
        won = (vote > 0) | ((vote == 0) & (even > 0))
        work[_VALUES + e] = up if won else down


@inner
def _elect_and_divide(work, count, even):
    for e in range(count):
        up, down = work[_UP + e], work[_DOWN + e]
        up_share, down_share = work[_UP_SHARE + e], work[_DOWN_SHARE + e]
        vote = up + down
        won = (vote > 0) | ((vote == 0) & (even > 0))
        share = up_share if won else down_share
        total = up if won else down
        work[_VALUES + e] = total / (share if share != 0 else f32(1))


@inner
def _settle(work, count, elect, normalize, divisor):
    """Put the merged task vector in section _VALUES."""
    if elect and normalize >= 2:
        _elect_apart(work, count, elect)
    elif elect and normalize:
        _elect_and_divide(work, count, elect)
    elif elect:
        _elect(work, count, elect)
    elif normalize:
        for e in range(count):
            work[_VALUES + e] = work[_UP + e] / divisor
    else:
        for e in range(count):
            work[_VALUES + e] = work[_UP + e]


@inner
def clear(work, normalize):
    """Begin a step: all sums are zero."""
    work[_UP : (5 if normalize else 3) * STEP] = 0


@inner
def gather(work, count, least, most, gain, weight, elect, normalize):
    """Take in one model's entries, which stand in section _VALUES."""
    if not elect:
        _sum(work, count, least, most, gain, weight)
    elif normalize == 1:
        _vote_and_share(work, count, least, most, gain, weight)
    elif normalize == 2:
        _vote(work, count, least, most, gain, weight)
        _extreme(work, count, least, most, gain, weight)
    elif normalize == 3:
        _vote(work, count, least, most, gain, f32(1))
        _weigh(work, count, least, most, gain, weight)
    else:
        _vote(work, count, least, most, gain, weight)


@inner
def add_scaled(base, scale, delta):
    """delta = base + scale * delta."""
    for e in range(delta.size):
        delta[e] = base[e] + scale * delta[e]


@inner
def finish(work, base, elect, normalize, divisor, scale, out, out_code, start):
    """Write base + scale * the merged task vector. Returns the status."""
    values = work[: base.size]
    _settle(work, base.size, elect, normalize, f32(divisor))
    add_scaled(base, f32(scale), values)
    return OVERFLOW if encode(values, out, out_code, start) else np.int64(0)


@kernel
def consensus(
    raw, codes, n, offset, keys, weight, least, most, probability, gain,
    random, elect, normalize, divisor, scale, out, out_code,
):  # fmt: skip
    """Thin, weigh, elect and sum task vectors. See `mergery.kernels.readable.consensus`."""
    k = codes.size - 1
    work, base_buffer = np.empty(5 * STEP, np.float32), np.empty(STEP, np.float32)
    status = np.int64(0)
    for start in range(0, n, STEP):
        count = min(STEP, n - start)
        base, values = base_buffer[:count], work[:count]
        clear(work, normalize)
        status |= decode(raw[0], codes[0], start, base)
        for i in range(k):
            status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
            if random:
                drop(values, keys[i], offset + start, threshold(probability[i]))
            if most[i] == np.inf:
                gather(work, count, least[i], None, gain[i], weight[i], elect, normalize)
            else:
                gather(work, count, least[i], most[i], gain[i], weight[i], elect, normalize)
        status |= finish(work, base, elect, normalize, divisor, scale, out, out_code, start)
    return status


@kernel
def convert(row, code, n, out, out_code):
    """Write a stored row in another type. See `mergery.kernels.readable.convert`."""
    buffer = np.empty(STEP, np.float32)
    status = np.int64(0)
    for start in range(0, n, STEP):
        values = buffer[: min(STEP, n - start)]
        status |= decode(row, code, start, values)
        if code != out_code and encode(values, out, out_code, start):
            status |= OVERFLOW
    if code == out_code:
        for byte in range(n * _SIZES[code]):
            out[byte] = row[byte]
    return status
