"""Stored bytes to float32 and back, a step of elements at a time.

The scalar conversions have no branches and stay within 32-bit integers (numba widens sums of them to 64), so
that the loops around them vectorise.
"""

from __future__ import annotations

import numpy as np

from weft.dtypes import BF16, F16, F32
from weft.kernels import LAST_ROW
from weft.kernels.compiled.jit import inner

STEP = 2048
"""Elements that are worked on at a time: a float32 buffer of 8 KiB."""

u8, u16, u32, u64, i16, i32, f32 = np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int32, np.float32

_BF16, _F16, _F32 = BF16.code, F16.code, F32.code
MAGNITUDE = u32(0x7FFFFFFF)
INFINITY = u32(0x7F800000)
_REBIAS = u32(112 << 23)  # float32 exponents are biased by 127, float16 exponents by 15
_BF16_OVERFLOW = u32(0x7F7F8000)  # the least magnitudes that are rounded to infinity
_F16_OVERFLOW = u32(0x477FF000)


@inner
def bits(value):
    """The pattern of a float32."""
    return f32(value).view(np.uint32)


@inner
def real(pattern):
    """The float32 of a pattern."""
    return u32(pattern).view(np.float32)


@inner
def _from_f16(half):
    magnitude = u32(u32(half) & u32(0x7FFF))
    pattern = u32(u32(magnitude << u32(13)) + _REBIAS)
    pattern = u32(pattern + _REBIAS) if magnitude >= u32(0x7C00) else pattern  # infinity, NaN
    pattern = bits(f32(i32(magnitude)) * f32(2.0**-24)) if magnitude < u32(0x400) else pattern  # subnormal
    return real(u32(pattern | u32(u32(u32(half) & u32(0x8000)) << u32(16))))


@inner
def _to_bf16(value):
    pattern = bits(value)
    odd = u32(u32(pattern >> u32(16)) & u32(1))
    rounded = u32(u32(pattern + u32(0x7FFF) + odd) >> u32(16))
    return u16(rounded) if u32(pattern & MAGNITUDE) <= INFINITY else u16(0x7FC0)


@inner
def _to_f16(value):
    pattern = bits(value)
    magnitude = u32(pattern & MAGNITUDE)
    odd = u32(u32(magnitude >> u32(13)) & u32(1))
    half = u32(u32(magnitude - _REBIAS + u32(0xFFF) + odd) >> u32(13))
    # Below 2**-14 the result is subnormal: adding 0.5 rounds it to a multiple of 2**-24 in the low bits.
    half = u32(bits(real(magnitude) + f32(0.5)) - u32(0x3F000000)) if magnitude < u32(0x38800000) else half
    half = u32(0x7C00) if magnitude >= u32(0x47800000) else half
    half = u32(half | u32(u32(pattern >> u32(16)) & u32(0x8000)))
    return u16(half) if magnitude <= INFINITY else u16(0x7E00)


@inner
def _to_f32(value):
    return value if u32(bits(value) & MAGNITUDE) <= INFINITY else real(u32(0x7FC00000))


@inner
def _read_bf16(stored, values):
    top = i32(0)
    for e in range(values.size):
        pattern = u32(u32(stored[e]) << u32(16))
        magnitude = i32(pattern & MAGNITUDE)
        top = magnitude if magnitude > top else top
        values[e] = real(pattern)
    return top


@inner
def _read_bf16_delta(stored, base, values):
    top = i32(0)
    for e in range(values.size):
        pattern = u32(u32(stored[e]) << u32(16))
        magnitude = i32(pattern & MAGNITUDE)
        top = magnitude if magnitude > top else top
        values[e] = real(pattern) - base[e]
    return top


@inner
def _read_f16(stored, values):
    for e in range(values.size):
        values[e] = _from_f16(stored[e])
    return _top(values)


@inner
def _read_float(stored, values):
    for e in range(values.size):
        values[e] = f32(stored[e])
    return _top(values)


@inner
def _write_bf16(values, stored):
    """Rounds all but NaN rightly. Returns the largest pattern, by which the caller knows of a NaN."""
    top = i32(0)
    for e in range(values.size):
        pattern = bits(values[e])
        magnitude = i32(pattern & MAGNITUDE)
        top = magnitude if magnitude > top else top
        odd = u32(u32(pattern >> u32(16)) & u32(1))
        stored[e] = u16(u32(u32(pattern + u32(0x7FFF) + odd) >> u32(16)))
    return top


@inner
def _write_bf16_with_nan(values, stored):
    for e in range(values.size):
        stored[e] = _to_bf16(values[e])


@inner
def _write_f16(values, stored):
    for e in range(values.size):
        stored[e] = _to_f16(values[e])
    return _top(values)


@inner
def _write_float(values, stored):
    for e in range(values.size):
        stored[e] = _to_f32(values[e])
    return _top(values)


@inner
def _top(values):
    """The largest pattern of a magnitude. Patterns compare as magnitudes do; infinity and NaN are above all."""
    top = i32(0)
    for e in range(values.size):
        magnitude = i32(bits(values[e]) & MAGNITUDE)
        top = magnitude if magnitude > top else top
    return top


@inner
def subtract(values, base):
    """values -= base."""
    for e in range(values.size):
        values[e] -= base[e]


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
    if code == _BF16:
        stored = row[2 * start : 2 * (start + values.size)].view(np.uint16)
        return np.int64(_read_bf16_delta(stored, base, values) >= i32(INFINITY))
    status = decode(row, code, start, values)
    subtract(values, base)
    return status


@inner
def encode(values, out, code, start):
    """Write `values`, rounded, from element `start` on. Returns 1 if a result is not finite, else 0."""
    stop = start + values.size
    overflow = INFINITY
    if code == _BF16:
        stored = out[2 * start : 2 * stop].view(np.uint16)
        top = _write_bf16(values, stored)
        if top > i32(INFINITY):
            _write_bf16_with_nan(values, stored)
        overflow = _BF16_OVERFLOW
    elif code == _F16:
        top = _write_f16(values, out[2 * start : 2 * stop].view(np.uint16))
        overflow = _F16_OVERFLOW
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
