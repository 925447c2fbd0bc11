"""One GGUF file as a weight file: its tensors under its own names, decoded by slice."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.byte_files import ByteFile
from mergery.checkpoints.gguf.header import RawTensor, block_type, read_header
from mergery.checkpoints.weights import WeightFile
from mergery.dtypes import BF16, DTYPES, F16, F32, F64, DType
from mergery.errors import CheckpointError, Where

if TYPE_CHECKING:
    import numpy as np

PLAIN: dict[str, DType] = {
    "F32": F32, "F16": F16, "BF16": BF16, "F64": F64, **{name: DTYPES[name] for name in ("I8", "I16", "I32", "I64")},
}  # fmt: skip
"""Types whose bytes are numbers as they stand; all others are blocks, which are decoded to float32."""


class GgufFile(WeightFile):
    """A GGUF file's tensors. `raw` says how they are stored; those in blocks are read as float32."""

    def __init__(self, file: ByteFile) -> None:
        self.bytes = file
        header = read_header(file)
        self.metadata, self.raw, self.header_sha256 = header.metadata, header.tensors, header.sha256
        self.tensors = {name: TensorInfo(name, raw.shape, self._dtype(raw)) for name, raw in self.raw.items()}

    def _dtype(self, raw: RawTensor) -> DType:
        kind = type_name(raw.kind)
        if kind not in PLAIN and not can_decode(raw.kind):
            why = f"it is {kind}, a type for steps of a computation, or one that the package gguf does not decode"
            hint = "use another file of the model, or a newer version of the package gguf"
            raise CheckpointError(
                f"tensor {raw.name!r} cannot be decoded", where=Where(self.bytes.name), why=why, hint=hint
            )
        return PLAIN.get(kind, F32)

    def read_range(self, info: TensorInfo, start: int, stop: int, into: memoryview) -> None:
        raw = self.raw[info.name]
        if type_name(raw.kind) in PLAIN:
            self.bytes.read_into(raw.begin + start * info.dtype.itemsize, into)
            return
        kind = block_type(raw.kind)
        assert kind is not None
        first, last = start // kind.elements, -(-stop // kind.elements)
        blocks = self.bytes.read_at(raw.begin + first * kind.nbytes, (last - first) * kind.nbytes)
        values = decode(blocks, raw.kind)
        skipped = first * kind.elements
        into[:] = values[start - skipped : stop - skipped].data.cast("B")


def type_name(kind: int) -> str:
    """What ggml calls a type."""
    found = block_type(kind)
    return found.name if found else str(kind)


@cache
def can_decode(kind: int) -> bool:
    """Whether the package `gguf` has a decoder for a type's blocks."""
    import numpy as np

    known = block_type(kind)
    try:
        return known is not None and decode(bytes(known.nbytes), kind).dtype == np.float32
    except NotImplementedError:
        return False


def decode(blocks: bytes, kind: int) -> np.ndarray:
    """Whole blocks of a type as float32, as the package `gguf` decodes them. Raises NotImplementedError."""
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # a broken scale is told by the values, where they are merged
        values = dequantize(np.frombuffer(blocks, np.uint8).reshape(1, -1), GGMLQuantizationType(kind))
    return np.ascontiguousarray(values, np.float32).reshape(-1)
