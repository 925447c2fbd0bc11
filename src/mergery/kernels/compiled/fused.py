"""Mixing a few rows of bfloat16 in one loop, for a model in memory that holds them as float32: it costs little more than
reading, where a loop for each row costs three times that."""

from __future__ import annotations

import numpy as np

from mergery.dtypes import BF16, BF16_IN_F32
from mergery.kernels.compiled import maps
from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.patterns import MAGNITUDE, bits, i32, real, u32
from mergery.kernels.compiled.storage import BF16_OVERFLOW, rounded_to_bf16

FEWEST, MOST = 2, 4
"""Models that are mixed in one loop: of more arrays the compiler does not prove that they do not overlap."""


@inner
def _of(stored):
    return real(u32(u32(stored) << u32(16)))


@inner
def _rounded(total):
    return real(u32(rounded_to_bf16(bits(total)) & u32(0xFFFF0000)))


@inner
def _mixed(first, second, third, fourth, one, two, three, four, out):
    """Mix rows, of which the last may be None. Returns the largest pattern of a magnitude before rounding."""
    top = i32(0)
    for e in range(out.size):
        total = one * _of(first[e]) + two * _of(second[e])
        if third is not None:
            total += three * _of(third[e])
        if fourth is not None:
            total += four * _of(fourth[e])
        magnitude = i32(bits(total) & MAGNITUDE)
        top = magnitude if magnitude > top else top
        out[e] = _rounded(total)
    return top


@inner
def _mixed_deltas(base, first, second, third, fourth, one, two, three, four, out):
    """The same of the rows less the base, which is added at the end."""
    top = i32(0)
    for e in range(out.size):
        origin = _of(base[e])
        total = one * (_of(first[e]) - origin) + two * (_of(second[e]) - origin)
        if third is not None:
            total += three * (_of(third[e]) - origin)
        if fourth is not None:
            total += four * (_of(fourth[e]) - origin)
        total += origin
        magnitude = i32(bits(total) & MAGNITUDE)
        top = magnitude if magnitude > top else top
        out[e] = _rounded(total)
    return top


@inner
def _row(raw, j, start, count):
    return raw[j, 2 * start : 2 * (start + count)].view(np.uint16)


@kernel
def mix_few(raw, n, coefficients, out):
    """Mix two to four rows, all of bfloat16, into bfloat16's values as float32: see `mergery.kernels.readable.mix`.

    out: float32. Returns 0 where all that came out is finite, else 1. An input that is not makes the result so, whatever its
    weight; which it was is not said.
    """
    rows, k = coefficients.shape
    count, top = n // rows, i32(0)
    for row in range(rows):
        start, w = row * count, coefficients[row]
        a, b = _row(raw, 0, start, count), _row(raw, 1, start, count)
        made = out[start : start + count]
        if k == 2:
            top = max(top, _mixed(a, b, None, None, w[0], w[1], None, None, made))
        elif k == 3:
            top = max(top, _mixed(a, b, _row(raw, 2, start, count), None, w[0], w[1], w[2], None, made))
        else:
            c, d = _row(raw, 2, start, count), _row(raw, 3, start, count)
            top = max(top, _mixed(a, b, c, d, w[0], w[1], w[2], w[3], made))
    return np.int64(top >= i32(BF16_OVERFLOW))


@kernel
def mix_few_deltas(raw, n, coefficients, out):
    """The same, of rows behind a base."""
    rows, k = coefficients.shape
    count, top = n // rows, i32(0)
    for row in range(rows):
        start, w = row * count, coefficients[row]
        base, a, b = _row(raw, 0, start, count), _row(raw, 1, start, count), _row(raw, 2, start, count)
        made = out[start : start + count]
        if k == 2:
            top = max(top, _mixed_deltas(base, a, b, None, None, w[0], w[1], None, None, made))
        elif k == 3:
            c = _row(raw, 3, start, count)
            top = max(top, _mixed_deltas(base, a, b, c, None, w[0], w[1], w[2], None, made))
        else:
            c, d = _row(raw, 3, start, count), _row(raw, 4, start, count)
            top = max(top, _mixed_deltas(base, a, b, c, d, w[0], w[1], w[2], w[3], made))
    return np.int64(top >= i32(BF16_OVERFLOW))


def mix(
    raw: np.ndarray, codes: np.ndarray, n: int, has_base: int, coefficients: np.ndarray, out: np.ndarray, out_code: int
) -> int:
    """Mix linearly, in one loop where there is one for that. See `mergery.kernels.readable.mix`."""
    if out_code == BF16_IN_F32.code and FEWEST <= coefficients.shape[1] <= MOST and (codes == BF16.code).all():
        few = mix_few_deltas if has_base else mix_few
        made = out[: 4 * n].view(np.float32)
        if made.flags.aligned and not few(raw, n, coefficients, made):
            return 0
    return maps.mix(raw, codes, n, has_base, coefficients, out, out_code)
