"""Stored numbers as float32: eight-bit floats by table, and small integers out of words that pack them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NUMPY = {
    "F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U64": "u8",
    "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "u1",
}  # fmt: skip
"""How numpy views a dtype's bytes; all eight-bit floats are bytes."""
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)  # e2m1, by code
FP6 = tuple(
    sign * each
    for sign in (1, -1)
    for each in (
        *(part / 8 for part in range(8)),
        *((1 + part / 8) * 2**power for power in range(3) for part in range(8)),
    )
)  # e2m3, by code
LOST = {"e4m3": 0.026, "e5m2": 0.053, "e2m3": 0.035, "e2m1": 0.11, "nf4": 0.09}
"""How far floats of few bits are from normal numbers, as a share of their length, in blocks of 32 to 128."""


def lost_by(bits: float) -> float:
    """How far integers of so many bits are from normal numbers, as a share of their length, in groups of 32 to 128."""
    return 0.09 * 2.0 ** (4 - bits)


def as_float32(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes of a dtype, under its name in safetensors, as float32."""
    import numpy as np

    if dtype.startswith("F8"):
        return table(dtype)[raw]
    if dtype == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return raw.view(NUMPY[dtype]).astype(np.float32)


@cache
def table(dtype: str) -> np.ndarray:
    """The 256 values of an eight-bit float, of the Open Compute Project's formats and their variants without negative zero."""
    import numpy as np

    codes = np.arange(256)
    if dtype == "F8_E8M0":
        return np.where(codes == 255, np.nan, np.ldexp(1.0, codes - 127)).astype(np.float32)
    mantissa = 3 if "E4M3" in dtype else 2
    fnuz = dtype.endswith("FNUZ")
    bias = (1 << (6 - mantissa)) - (0 if fnuz else 1)
    exponent, part = codes >> mantissa & ((1 << (7 - mantissa)) - 1), codes & ((1 << mantissa) - 1)
    scale = 1 << mantissa
    values = np.where(
        exponent == 0, np.ldexp(part / scale, 1 - bias), np.ldexp(1 + part / scale, exponent - bias)
    ) * np.where(codes >= 128, -1.0, 1.0)
    if fnuz:
        values[128] = np.nan
    elif mantissa == 3:
        values[[127, 255]] = np.nan
    else:
        values[[124, 252]] = np.inf, -np.inf
        values[[125, 126, 127, 253, 254, 255]] = np.nan
    return values.astype(np.float32)


def nibbles(packed: np.ndarray, *, high_first: bool = False) -> np.ndarray:
    """Two codes of four bits from each byte, along the last axis."""
    import numpy as np

    low, high = packed & 15, packed >> 4
    return np.stack((high, low) if high_first else (low, high), axis=-1).reshape(*packed.shape[:-1], -1)


def integers(words: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned integers of so many bits from rows of 32-bit words, the lowest bits first, without gaps."""
    import numpy as np

    data = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape[:-1], -1)
    if bits == 8:
        return data
    if bits == 4:
        return nibbles(data)
    if bits == 2:
        return (data[..., None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(*data.shape[:-1], -1)
    single = np.unpackbits(data, axis=-1, bitorder="little")
    count = single.shape[-1] // bits
    fields = single[..., : count * bits].reshape(*data.shape[:-1], count, bits)
    return fields @ (1 << np.arange(bits)).astype(np.uint8)
