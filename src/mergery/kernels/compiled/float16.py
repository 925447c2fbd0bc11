"""Float16 and float32: one instruction for eight numbers where the processor has it, else arithmetic on the patterns.

Both give the same patterns of all numbers. Neither has branches, so that the loops around them become vectors.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from mergery.kernels.compiled.jit import emitted, inner
from mergery.kernels.compiled.patterns import INFINITY, MAGNITUDE, bits, f32, i32, real, u16, u32

_REBIAS = u32(112 << 23)  # float32 exponents are biased by 127, float16 exponents by 15
_NAN = u16(0x7E00)


@emitted("float32", "uint16")
def _widen(builder: Any, pattern: Any) -> Any:
    return builder.fpext(builder.bitcast(pattern, ir.HalfType()), ir.FloatType())


@emitted("uint16", "float32")
def _narrow(builder: Any, value: Any) -> Any:
    return builder.bitcast(builder.fptrunc(value, ir.HalfType()), ir.IntType(16))


@inner
def _from_instruction(pattern):
    return _widen(u16(pattern))


@inner
def _to_instruction(value):
    return _narrow(f32(value)) if u32(bits(value) & MAGNITUDE) <= INFINITY else _NAN


@inner
def _from_pattern(pattern):
    magnitude = u32(u32(pattern) & u32(0x7FFF))
    wide = u32(u32(magnitude << u32(13)) + _REBIAS)
    wide = u32(wide + _REBIAS) if magnitude >= u32(0x7C00) else wide  # infinity, NaN
    wide = bits(f32(i32(magnitude)) * f32(2.0**-24)) if magnitude < u32(0x400) else wide  # subnormal
    return real(u32(wide | u32(u32(u32(pattern) & u32(0x8000)) << u32(16))))


@inner
def _to_pattern(value):
    pattern = bits(value)
    magnitude = u32(pattern & MAGNITUDE)
    odd = u32(u32(magnitude >> u32(13)) & u32(1))
    short = u32(u32(magnitude - _REBIAS + u32(0xFFF) + odd) >> u32(13))
    # Below 2**-14 the result is subnormal: adding 0.5 rounds it to a multiple of 2**-24 in the low bits.
    short = u32(bits(real(magnitude) + f32(0.5)) - u32(0x3F000000)) if magnitude < u32(0x38800000) else short
    short = u32(0x7C00) if magnitude >= u32(0x47800000) else short
    short = u32(short | u32(u32(pattern >> u32(16)) & u32(0x8000)))
    return u16(short) if magnitude <= INFINITY else _NAN


def _has_instructions() -> bool:
    """Whether the processor converts by itself."""
    return bool(llvm.get_host_cpu_features().get("f16c")) or llvm.get_process_triple().startswith(("aarch64", "arm64"))


from_float16, to_float16 = (_from_instruction, _to_instruction) if _has_instructions() else (_from_pattern, _to_pattern)
