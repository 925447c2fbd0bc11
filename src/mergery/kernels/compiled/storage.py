"""Stored bytes to float32 and back, a step of elements at a time.

The scalar conversions have no branches and stay within 32-bit integers (numba widens sums of them to 64), so
that the loops around them vectorise.
"""

from __future__ import annotations

import numpy as np

from mergery.dtypes import BF16, BF16_IN_F32, F16, F32
from mergery.kernels import LAST_ROW
from mergery.kernels.compiled.float16 import from_float16, to_float16
from mergery.kernels.compiled.jit import inner
from mergery.kernels.compiled.patterns import INFINITY, MAGNITUDE, bits, f32, i32, real, u16, u32

STEP = 2048
"""Elements that are worked on at a time: a float32 buffer of 8 KiB."""

_BF16, _F16, _F32, _BF16_IN_F32 = BF16.code, F16.code, F32.code, BF16_IN_F32.code
BF16_OVERFLOW = u32(0x7F7F8000)  # the least magnitudes that are rounded to infinity
_F16_OVERFLOW = u32(0x477FF000)


@inner
def _from_bf16(stored):
    return real(u32(u32(stored) << u32(16)))


@inner
def _from_float(stored):
    return f32(stored)


@inner
def rounded_to_bf16(pattern):
    """The nearest bfloat16, in the upper half of the word; what is in the lower half means nothing. Not for NaN."""
    odd = u32(u32(pattern >> u32(16)) & u32(1))
    return u32(pattern + u32(0x7FFF) + odd)


@inner
def _to_bf16(value):
    """Rounds all but NaN rightly."""
    return u16(u32(rounded_to_bf16(bits(value)) >> u32(16)))


@inner
def _to_bf16_or_nan(value):
    return _to_bf16(value) if u32(bits(value) & MAGNITUDE) <= INFINITY else u16(0x7FC0)


@inner
def _to_bf16_in_f32(value):
    """The same as float32."""
    pattern = bits(value)
    rounded = u32(rounded_to_bf16(pattern) & u32(0xFFFF0000))
    return real(rounded if u32(pattern & MAGNITUDE) <= INFINITY else u32(0x7FC00000))


@inner
def _to_float(value):
    return value if u32(bits(value) & MAGNITUDE) <= INFINITY else real(u32(0x7FC00000))


def _reading(convert):
    """A loop that reads numbers of one type. It returns the largest pattern of a magnitude: patterns compare as magnitudes do;
    infinity and NaN are above all.
    """

    @inner
    def read(stored, values):
        top = i32(0)
        for e in range(values.size):
            value = convert(stored[e])
            magnitude = i32(bits(value) & MAGNITUDE)
            top = magnitude if magnitude > top else top
            values[e] = value
        return top

    return read


def _reading_delta(convert):
    """The same loop, less a base."""

    @inner
    def read(stored, base, values):
        top = i32(0)
        for e in range(values.size):
            value = convert(stored[e])
            magnitude = i32(bits(value) & MAGNITUDE)
            top = magnitude if magnitude > top else top
            values[e] = value - base[e]
        return top

    return read


def _writing(convert):
    """A loop that writes numbers as one type. It returns the largest pattern of a magnitude."""

    @inner
    def write(values, stored):
        top = i32(0)
        for e in range(values.size):
            magnitude = i32(bits(values[e]) & MAGNITUDE)
            top = magnitude if magnitude > top else top
            stored[e] = convert(values[e])
        return top

    return write


_read_bf16, _read_f16, _read_float = _reading(_from_bf16), _reading(from_float16), _reading(_from_float)
_delta_bf16, _delta_f16, _delta_float = (
    _reading_delta(_from_bf16),
    _reading_delta(from_float16),
    _reading_delta(_from_float),
)
_write_bf16, _write_f16, _write_float = _writing(_to_bf16), _writing(to_float16), _writing(_to_float)
_write_bf16_or_nan, _write_bf16_in_f32 = _writing(_to_bf16_or_nan), _writing(_to_bf16_in_f32)


@inner
def decode(row, code, start, values):
    """Fill `values` with a row's elements from `start` on. Returns 1 if one of them is not finite, else 0."""
    stop = start + values.size
    if code == _BF16:
        top = _read_bf16(row[2 * start : 2 * stop].view(np.uint16), values)
    elif code == _F16:
        top = _read_f16(row[2 * start : 2 * stop].view(np.uint16), values)
    elif code == _F32:
        top = _read_float(row[4 * start : 4 * stop].view(np.float32), values)
    else:
        top = _read_float(row[8 * start : 8 * stop].view(np.float64), values)
    return np.int64(top >= i32(INFINITY))


@inner
def decode_delta(row, code, start, base, values):
    """Fill `values` with a row's elements from `start` on, minus the base. Returns 1 if one is not finite, else 0."""
    stop = start + values.size
    if code == _BF16:
        top = _delta_bf16(row[2 * start : 2 * stop].view(np.uint16), base, values)
    elif code == _F16:
        top = _delta_f16(row[2 * start : 2 * stop].view(np.uint16), base, values)
    elif code == _F32:
        top = _delta_float(row[4 * start : 4 * stop].view(np.float32), base, values)
    else:
        top = _delta_float(row[8 * start : 8 * stop].view(np.float64), base, values)
    return np.int64(top >= i32(INFINITY))


@inner
def encode(values, out, code, start):
    """Write `values`, rounded, from element `start` on. Returns 1 if a result is not finite, else 0."""
    stop = start + values.size
    overflow = INFINITY
    if code == _BF16:
        stored = out[2 * start : 2 * stop].view(np.uint16)
        top = _write_bf16(values, stored)
        if top > i32(INFINITY):
            _write_bf16_or_nan(values, stored)
        overflow = BF16_OVERFLOW
    elif code == _F16:
        top = _write_f16(values, out[2 * start : 2 * stop].view(np.uint16))
        overflow = _F16_OVERFLOW
    elif code == _BF16_IN_F32:
        top = _write_bf16_in_f32(values, out[4 * start : 4 * stop].view(np.float32))
        overflow = BF16_OVERFLOW
    elif code == _F32:
        top = _write_float(values, out[4 * start : 4 * stop].view(np.float32))
    else:
        top = _write_float(values, out[8 * start : 8 * stop].view(np.float64))
    return np.int64(top >= i32(overflow))


@inner
def decode_vector(raw, codes, j, start, has_base, base, values):
    """Fill `values` with row j, minus the base if there is one. Returns the status (bit j, at most LAST_ROW)."""
    if has_base:
        return decode_delta(raw[j], codes[j], start, base, values) << min(j, LAST_ROW)
    return decode(raw[j], codes[j], start, values) << min(j, LAST_ROW)
