"""The bit patterns of float32, as kernels compare and round them."""

from __future__ import annotations

import numpy as np

from mergery.kernels.compiled.jit import inner

u8, u16, u32, u64, i16, i32, f32 = np.uint8, np.uint16, np.uint32, np.uint64, np.int16, np.int32, np.float32

MAGNITUDE = u32(0x7FFFFFFF)
INFINITY = u32(0x7F800000)


@inner
def bits(value):
    """The pattern of a float32."""
    return f32(value).view(np.uint32)


@inner
def real(pattern):
    """The float32 of a pattern."""
    return u32(pattern).view(np.float32)
