"""Safetensors files: eight bytes of header length, a JSON header, then the tensors' bytes without gaps.

The format is documented at https://huggingface.co/docs/safetensors. Everything that it promises is checked
from the header and the file's size alone, so a broken file is refused before any value is read.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.byte_files import ByteFile, recognise
from mergery.checkpoints.json_files import is_text
from mergery.checkpoints.weights import WeightFile
from mergery.dtypes import DTYPES, DType
from mergery.errors import CheckpointError, Where, did_you_mean

HEADER_LIMIT = 100_000_000
DAMAGED = "download or save the file again"
DIMENSIONS_LIMIT = 64
_KEYS = {"dtype", "shape", "data_offsets"}
_INT = {int}


@dataclass(frozen=True)
class Header:
    """What a file's header says: its tensors in the order of their offsets, where each begins, and where the file ends."""

    metadata: Mapping[str, str]
    tensors: dict[str, TensorInfo]
    begins: dict[str, int]
    data: int
    end: int  # of the data


class Kind(NamedTuple):
    """What tensors of one dtype and shape have in common."""

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


class SafetensorsFile(WeightFile):
    """One safetensors file. `tensors` are in the order of their offsets; `metadata` is the file's own.

    `headers` are those that have been read, by SHA-256: fine-tunes of one model have equal ones, which are kept once.
    """

    def __init__(self, file: ByteFile, headers: dict[str, Header] | None = None) -> None:
        self.bytes = file
        text = _header_bytes(file)
        self.header_sha256 = hashlib.sha256(text).hexdigest()
        known = {} if headers is None else headers
        if self.header_sha256 not in known:
            known[self.header_sha256] = _read_header(text, file.name)
        self._header = known[self.header_sha256]
        self.metadata, self.tensors = self._header.metadata, self._header.tensors
        _check_size(file, self._header.data, self._header.end)

    def read_range(self, info: TensorInfo, start: int, stop: int, into: memoryview) -> None:
        self.bytes.read_into(self._header.begins[info.name] + start * info.dtype.bits // 8, into)


def _read_header(text: bytes, file: str) -> Header:
    entries = _parse(text, file)
    metadata = _metadata(entries.pop("__metadata__", {}), file)
    data, end = 8 + len(text), 0
    begins: dict[str, int] = {}
    tensors: dict[str, TensorInfo] = {}
    kinds: dict[Any, Kind] = {}
    spans = sorted([_check_entry(name, entry, file, kinds) for name, entry in entries.items()])
    for place, (begin, stop, name, info) in enumerate(spans):
        if begin != end:
            raise _misplaced(file, spans[place - 1][2] if place else "", name, begin - end)
        end = stop
        begins[name] = data + begin
        tensors[name] = info
    return Header(metadata, tensors, begins, data, end)


def _refuse(file: str, what: str, why: str = "", hint: str = DAMAGED) -> NoReturn:
    raise CheckpointError(what, where=Where(file), why=why, hint=hint)


def _header_bytes(file: ByteFile) -> bytes:
    if file.size < 8:
        why = f"it has {file.size} bytes; a safetensors file begins with its header's length in 8 bytes"
        _refuse(file.name, "this is no safetensors file", why)
    length = int.from_bytes(file.read_at(0, 8), "little")
    if 2 <= length <= min(HEADER_LIMIT, file.size - 8):
        return file.read_at(8, length)
    first = file.read_at(0, min(64, file.size))
    known = "" if first[8:9] == b"{" else recognise(first)
    if known or length < 2:
        _refuse(file.name, "this is no safetensors file", f"its header length reads {length}", known or DAMAGED)
    if length > HEADER_LIMIT:
        why = f"its header length reads {length} bytes; the format allows {HEADER_LIMIT}"
        _refuse(file.name, "this is no safetensors file", why)
    why = f"the header alone takes {length} bytes, the file has {file.size}"
    _refuse(file.name, "the file is truncated within its header", why)


def _parse(header: bytes, file: str) -> dict[str, Any]:
    if not header.startswith(b"{"):
        _refuse(file, "the header is not a JSON object", f"it begins with {header[:1]!r}")
    try:
        text = header.decode("utf-8")
        entries = json.loads(text, parse_constant=_no_constant)
        if text.count('"') != 2 * _strings(entries):
            json.loads(text, object_pairs_hook=_unique)  # takes half as long again
        return entries
    except UnicodeDecodeError as error:
        _refuse(file, "the header is not valid UTF-8", f"byte {error.start} of the header: {error.reason}")
    except _DuplicateError as error:
        why = "which of the two holds the weights cannot be known"
        _refuse(file, f"the header names {error.args[0]!r} twice", why, "save the model again with unique names")
    except json.JSONDecodeError as error:
        _refuse(file, "the header is not valid JSON", f"{error.msg} at byte {error.pos} of the header")
    except (ValueError, RecursionError) as error:
        _refuse(file, "the header is not valid JSON", str(error))


def _strings(entries: dict[str, Any]) -> int:
    """How many strings the entries of a sound header hold: names, keys, dtypes, and the metadata's values.

    The header's text has two quotes for each. It has more where a quote is escaped, or where a name stands twice, of which
    JSON's reader keeps the last.
    """
    keys = sum([len(entry) for entry in entries.values() if type(entry) is dict])
    metadata = entries.get("__metadata__")
    values = len(entries) if metadata is None else len(entries) - 1 + (len(metadata) if type(metadata) is dict else 0)
    return len(entries) + keys + values


class _DuplicateError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _DuplicateError(name)
            seen.add(name)
    return known


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _metadata(entry: Any, file: str) -> dict[str, str]:
    if not isinstance(entry, dict) or any(not isinstance(value, str) for value in entry.values()):
        _refuse(file, "the header's `__metadata__` is not a map from text to text", hint="save the file again")
    return entry


def _check_entry(name: str, entry: Any, file: str, kinds: dict[Any, Kind]) -> tuple[int, int, str, TensorInfo]:
    """Begin and end of the tensor's bytes in the data, its name (which breaks ties), and its header.

    `kinds` keeps what each dtype and shape was found to be: many tensors share few of them.
    """
    if type(entry) is not dict or entry.keys() != _KEYS:
        why = "an entry holds `dtype`, `shape` and `data_offsets`, and nothing else"
        _refuse(file, f"tensor {name!r}: its header entry is malformed", why)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    plain = type(dtype) is str and type(shape) is list and _INT.issuperset(map(type, shape))
    key = (dtype, *shape) if plain else None
    kind = kinds.get(key)
    if kind is None:
        kind = kinds[key] = _check_kind(name, dtype, shape, file)
    begin, end = offsets if type(offsets) is list and len(offsets) == 2 else (None, None)
    if type(begin) is not int or type(end) is not int or begin < 0 or end < 0:
        said = reprlib.repr(offsets)
        _refuse(file, f"tensor {name!r}: data_offsets {said} are not two non-negative whole numbers")
    if not is_text(name):
        _refuse(file, f"the name {name!r} of a tensor is not valid Unicode")
    if end - begin != kind.nbytes:
        why = f"{kind.dtype.name} of shape {shape} takes {kind.nbytes} bytes, {begin} to {end} are {end - begin}"
        _refuse(file, f"tensor {name!r}: its offsets do not match its shape", why)
    return begin, end, name, TensorInfo(name, kind.shape, kind.dtype)


def _check_kind(name: str, word: Any, shape: Any, file: str) -> Kind:
    """The dtype and shape of one tensor, and how many bytes it takes."""
    dtype = DTYPES.get(word) if type(word) is str else None
    if dtype is None:
        said = reprlib.repr(word)
        _refuse(file, f"tensor {name!r}: unknown dtype {said}", hint=did_you_mean(said.strip("'"), DTYPES))
    if not _are_counts(shape):
        said = reprlib.repr(shape)
        _refuse(file, f"tensor {name!r}: shape {said} is not a list of non-negative whole numbers")
    bits = math.prod(shape) * dtype.bits
    if bits % 8:
        _refuse(file, f"tensor {name!r}: shape {shape} of {dtype.bits}-bit elements does not fill whole bytes")
    return Kind(dtype, tuple(shape), bits // 8)


def _are_counts(value: Any) -> bool:
    """Whether this is a short list of non-negative whole numbers of 63 bits; JSON's true and 1.0 are none."""
    if type(value) is not list or len(value) > DIMENSIONS_LIMIT or not _INT.issuperset(map(type, value)):
        return False
    return not value or (min(value) >= 0 and max(value) < 1 << 63)


def _misplaced(file: str, before: str, name: str, distance: int) -> CheckpointError:
    if distance < 0:
        what = f"tensors {before!r} and {name!r} overlap by {-distance} bytes"
        why = "the format gives every tensor its own bytes"
    else:
        place = f"between {before!r} and {name!r}" if before else f"before the first tensor, {name!r}"
        what = f"{distance} bytes {place} belong to no tensor"
        why = "the format allows no gaps"
    return CheckpointError(what, where=Where(file), why=why, hint=DAMAGED)


def _check_size(file: ByteFile, data: int, end: int) -> None:
    expected = data + end
    if file.size < expected:
        missing = expected - file.size
        why = f"its header describes {expected} bytes, it has {file.size}: {missing} are missing"
        _refuse(
            file.name,
            "the file is truncated",
            why,
            "download the file again; the last download was cut short",
        )
    if file.size > expected:
        why = f"its header describes {expected} bytes, it has {file.size}"
        _refuse(file.name, f"{file.size - expected} bytes follow the last tensor", why)
