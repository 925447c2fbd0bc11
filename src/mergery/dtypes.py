"""The storage types of checkpoints, under the names that safetensors gives them. Loads neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DType:
    """One storage type. `code` is the number by which the compiled kernels know it; -1 where they cannot decode it."""

    name: str  # as safetensors spells it: BF16, F32, ...
    torch: str  # as torch and config.json spell it: bfloat16, float32, ...
    bits: int
    floating: bool
    code: int = -1
    rounded: str = ""  # the type of torch to whose values it is confined, where that is a narrower one

    @property
    def itemsize(self) -> int:
        """Bytes an element; types narrower than a byte have none and are refused before this is asked."""
        return self.bits // 8

    @property
    def mergeable(self) -> bool:
        """Whether arithmetic on its values is meaningful without further tables (scales, code books)."""
        return self.code >= 0

    def __str__(self) -> str:
        return self.torch


BF16 = DType("BF16", "bfloat16", 16, True, 0)
F16 = DType("F16", "float16", 16, True, 1)
F32 = DType("F32", "float32", 32, True, 2)
F64 = DType("F64", "float64", 64, True, 3)
BF16_IN_F32 = DType(
    "BF16 in F32", "float32", 32, True, 4, "bfloat16"
)  # of a model in memory, as it is loaded from files

DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        BF16,
        F16,
        F32,
        F64,
        DType("I64", "int64", 64, False),
        DType("I32", "int32", 32, False),
        DType("I16", "int16", 16, False),
        DType("I8", "int8", 8, False),
        DType("U64", "uint64", 64, False),
        DType("U32", "uint32", 32, False),
        DType("U16", "uint16", 16, False),
        DType("U8", "uint8", 8, False),
        DType("BOOL", "bool", 8, False),
        DType("C64", "complex64", 64, False),
        DType("F8_E4M3", "float8_e4m3fn", 8, True),
        DType("F8_E4M3FNUZ", "float8_e4m3fnuz", 8, True),
        DType("F8_E5M2", "float8_e5m2", 8, True),
        DType("F8_E5M2FNUZ", "float8_e5m2fnuz", 8, True),
        DType("F8_E8M0", "float8_e8m0fnu", 8, True),
        DType("F4", "float4_e2m1fn_x2", 4, True),
    )
}
BY_TORCH: dict[str, DType] = {dtype.torch: dtype for dtype in DTYPES.values()}
OUTPUT_DTYPES: dict[str, DType] = {dtype.torch: dtype for dtype in (BF16, F16, F32, F64)}
