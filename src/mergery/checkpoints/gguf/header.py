"""The header of a GGUF file: metadata, and the names, shapes, types and places of tensors.

The format is documented at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Files come from strangers: whatever does
not hold together is refused before any value is read, and nothing is believed to be longer than the file.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, NoReturn

from mergery.checkpoints.byte_files import ByteFile, recognise
from mergery.errors import CheckpointError, Where

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"
HEADER_LIMIT = 1 << 30
STRING_LIMIT = 1 << 26  # bytes
DAMAGED = "download the file again"
BLOCK = 1 << 20  # bytes that are read at once
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class RawTensor(NamedTuple):
    """A tensor as the file has it. `shape` has rows first, as everywhere else; GGUF states it the other way round."""

    name: str
    shape: tuple[int, ...]
    kind: int  # the number of its type in ggml
    begin: int  # of its first byte in the file
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What stands before the tensors' bytes."""

    metadata: Mapping[str, Any]
    tensors: dict[str, RawTensor]
    sha256: str


class BlockType(NamedTuple):
    """A type of ggml: so many elements stand together in so many bytes."""

    name: str
    elements: int
    nbytes: int


@cache
def block_type(kind: int) -> BlockType | None:
    """The type with a number of ggml; None where this version of the package `gguf` knows none."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        found = GGMLQuantizationType(kind)
        return BlockType(found.name, *GGML_QUANT_SIZES[found])
    except (ValueError, KeyError):
        return None


def read_header(file: ByteFile) -> Header:
    """The header of a file. Raises CheckpointError."""
    cursor = _Cursor(file)
    first = file.read_at(0, min(64, file.size))
    if not first.startswith(MAGIC):
        hint = recognise(first) or DAMAGED
        _refuse(file, "this is no GGUF file", f"it begins with {first[:4]!r}, not with {MAGIC!r}", hint)
    cursor.take(4)
    version = cursor.number("I")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        why = "its numbers are big-endian" if swapped in VERSIONS else f"it is of version {version}"
        _refuse(file, "this GGUF file cannot be read", f"{why}; versions 2 and 3 are read", "convert the model again")
    tensors, entries = cursor.number("Q"), cursor.number("Q")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.string()
        if key in metadata:
            _refuse(file, f"the key {key!r:.80} stands in the metadata twice")
        metadata[key] = cursor.value(cursor.number("I"), key)
    stated = [_tensor(cursor) for _ in range(tensors)]
    alignment = metadata.get(ALIGNMENT, 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        _refuse(file, "the tensors are aligned by no power of two", f"{ALIGNMENT} is {alignment!r:.40}")
    data = -(-cursor.at // alignment) * alignment
    return Header(metadata, _place(file, stated, data, alignment), cursor.digest())


def _tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    dimensions = cursor.number("I")
    if dimensions > 8:
        _refuse(cursor.file, f"tensor {name!r:.80} has {dimensions} dimensions", "at most 4 are known")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))
    return name, shape[::-1], cursor.number("I"), cursor.number("Q")


def _place(
    file: ByteFile, stated: list[tuple[str, tuple[int, ...], int, int]], data: int, alignment: int
) -> dict[str, RawTensor]:
    """The tensors in the order of the file, once each is known to lie in it and none in another."""
    found: dict[str, RawTensor] = {}
    end, before = 0, ""
    kinds: dict[int, BlockType] = {}
    for name, shape, kind, offset in sorted(stated, key=lambda each: each[3]):
        known = kinds.get(kind) or block_type(kind)
        if known is None:
            hint = "a newer version of the package gguf may know it: pip install -U gguf"
            _refuse(file, f"tensor {name!r:.80} has a type that is not known", f"its number is {kind}", hint)
        kinds[kind] = known
        if name in found:
            _refuse(file, f"tensor {name!r:.80} stands twice")
        if math.prod(shape) > 1 << 60 or (shape and shape[-1] % known.elements):
            why = f"its shape is {list(shape)}; {known.name} packs {known.elements} elements of a row together"
            _refuse(file, f"tensor {name!r:.80} has a shape that its type cannot have", why)
        nbytes = math.prod(shape) // known.elements * known.nbytes
        if offset < end or offset % alignment:
            why = (
                f"it begins at {offset}, and {before!r:.80} ends at {end}" if offset < end else f"it begins at {offset}"
            )
            _refuse(file, f"tensor {name!r:.80} is not where it can be", why)
        end, before = offset + nbytes, name
        if data + end > file.size:
            why = f"{name!r:.80} ends at byte {data + end:,}, and the file has {file.size:,}"
            _refuse(file, "the file is truncated", why)
        found[name] = RawTensor(name, shape, kind, data + offset, nbytes)
    return found


def _refuse(file: ByteFile, what: str, why: str = "", hint: str = DAMAGED) -> NoReturn:
    raise CheckpointError(what, where=Where(file.name), why=why, hint=hint)


class _Cursor:
    """Reads a header from its beginning on, a block of the file at a time."""

    def __init__(self, file: ByteFile) -> None:
        self.file, self.at = file, 0
        self._text = bytearray()

    def take(self, length: int) -> int:
        """Go on by so many bytes, which are in `_text` then. Returns where they begin."""
        begin, self.at = self.at, self.at + length
        if self.at > min(self.file.size, HEADER_LIMIT):
            why = f"the header goes on beyond byte {begin:,}, and the file has {self.file.size:,}"
            _refuse(self.file, "the file is truncated within its header", why)
        if self.at > len(self._text):
            more = min(max(BLOCK, self.at - len(self._text)), self.file.size - len(self._text))
            self._text += self.file.read_at(len(self._text), more)
        return begin

    def number(self, code: str) -> Any:
        return struct.unpack_from(f"<{code}", self._text, self.take(struct.calcsize(f"<{code}")))[0]

    def string(self) -> str:
        length = self.number("Q")
        if length > STRING_LIMIT:
            _refuse(self.file, f"a text in the header is {length:,} bytes long", f"at most {STRING_LIMIT:,} are read")
        begin = self.take(length)
        try:
            return self._text[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError as error:
            why = f"byte {begin + error.start} of the file: {error.reason}"
            _refuse(self.file, "a text in the header is not valid UTF-8", why)

    def value(self, kind: int, key: str) -> Any:
        """A number, a text, or a list of such."""
        if kind == STRING:
            return self.string()
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != ARRAY:
            _refuse(self.file, f"the value of {key!r:.80} has a type that is not known", f"its number is {kind}")
        inner, count = self.number("I"), self.number("Q")
        if inner == STRING:
            return [self.string() for _ in range(count)]
        if inner not in _NUMBERS:
            _refuse(self.file, f"the list {key!r:.80} holds a type that is not known", f"its number is {inner}")
        size = struct.calcsize(_NUMBERS[inner])
        if count > HEADER_LIMIT:
            _refuse(self.file, f"the list {key!r:.80} is too long", f"{count:,} entries")
        begin = self.take(count * size)
        return list(struct.unpack_from(f"<{count}{_NUMBERS[inner]}", self._text, begin))

    def digest(self) -> str:
        return hashlib.sha256(memoryview(self._text)[: self.at]).hexdigest()
