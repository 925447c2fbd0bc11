"""A GGUF file's header as bytes, and numbers as blocks."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mergery.checkpoints.gguf.header import ARRAY, MAGIC, STRING, block_type
from mergery.errors import DataError

if TYPE_CHECKING:
    import numpy as np

VERSION, ALIGNMENT = 3, 32
UINT32, INT32, FLOAT32, BOOL, UINT64 = 4, 5, 6, 7, 10


class OutTensor(NamedTuple):
    """A tensor of a file that is written. `shape` has rows first; `kind` is the number of its type in ggml."""

    name: str
    shape: tuple[int, ...]
    kind: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) // self.block[0] * self.block[1]

    @property
    def block(self) -> tuple[int, int]:
        """Elements that stand together, and in how many bytes."""
        known = block_type(self.kind)
        assert known is not None
        return known.elements, known.nbytes


def encode_header(metadata: Mapping[str, Any], tensors: Sequence[OutTensor]) -> tuple[bytes, list[int], int]:
    """The header with its padding, where each tensor begins in the file, and how long that is."""
    text = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        text.append(_string(key) + _value(value))
    offset, offsets = 0, []
    for tensor in tensors:
        offsets.append(offset)
        sides = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
        text.append(_string(tensor.name) + sides + struct.pack("<IQ", tensor.kind, offset))
        offset += _padded(tensor.nbytes)
    header = b"".join(text)
    header += bytes(_padded(len(header)) - len(header))
    return header, [len(header) + each for each in offsets], len(header) + offset


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value) if value < 1 << 32 else struct.pack("<IQ", UINT64, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_string, value))
    kind, code = (FLOAT32, "f") if value and isinstance(value[0], float) else (INT32, "i")
    return struct.pack(f"<IIQ{len(value)}{code}", ARRAY, kind, len(value), *value)


def encode(values: np.ndarray, kind: int, name: str) -> np.ndarray:
    """Whole blocks of float32 as a type's bytes, as the package `gguf` makes them. Raises DataError for NaN and infinity."""
    import numpy as np
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    if not np.isfinite(values).all():
        raise DataError(f"tensor {name!r} holds NaN or infinity", hint="no block can hold it")
    made = quantize(values.reshape(1, -1), GGMLQuantizationType(kind))
    return np.ascontiguousarray(made).view(np.uint8).reshape(-1)
