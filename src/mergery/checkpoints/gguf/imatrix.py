"""Importance matrices of llama.cpp: for each matrix, the sum of squares of what each of its columns is multiplied with, over
tokens. Read in both of its formats, written in the newer one.

Of experts there is a row for each, with its own count of tokens.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from mergery.checkpoints.byte_files import LocalFile
from mergery.checkpoints.gguf.encoding import OutTensor, encode_header
from mergery.checkpoints.gguf.file import GgufFile
from mergery.checkpoints.gguf.header import MAGIC
from mergery.dtypes import F32
from mergery.errors import CheckpointError, Where

if TYPE_CHECKING:
    import numpy as np

SUMS, COUNTS = ".in_sum2", ".counts"
NAME_LIMIT = 1 << 12  # bytes
ENTRIES_LIMIT = 1 << 22
LEAST = 1e-6  # of the mean of a row: where all weights of a block are zero, there is no best code
AGAIN = "download it again, or make one: mergery export imatrix"


class Entry(NamedTuple):
    """Of one tensor of a GGUF file: sums of squares (matrices, in), float32, and how many tokens each is of (matrices,)."""

    sums: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Imatrix:
    """Entries by the names of tensors, and the names of the texts that they were measured on."""

    entries: Mapping[str, Entry]
    texts: tuple[str, ...] = ()
    rows: int = 0  # of tokens: llama.cpp's chunks
    longest: int = 0  # tokens of a row

    def means(self, name: str) -> np.ndarray:
        """What each column of a tensor counts: float32 (matrices x in,), above zero; all alike for what no token reached."""
        import numpy as np

        sums, counts = self.entries[name]
        means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1.0)[:, None], 1.0)
        least = np.maximum(means.mean(axis=1, keepdims=True) * LEAST, np.finfo(np.float32).tiny)
        return np.maximum(means, least).astype(np.float32).reshape(-1)

    def encoded(self) -> bytes:
        """The bytes of a file."""
        import numpy as np

        tensors: list[OutTensor] = []
        arrays: list[np.ndarray] = []
        for name, (sums, counts) in self.entries.items():
            tensors += [OutTensor(f"{name}{SUMS}", sums.shape, 0), OutTensor(f"{name}{COUNTS}", (len(counts), 1), 0)]
            arrays += [sums, counts]
        metadata = {
            "general.type": "imatrix", "imatrix.datasets": list(self.texts) or ["unknown"], "imatrix.chunk_count": self.rows,
            "imatrix.chunk_size": self.longest,
        }  # fmt: skip
        header, begins, size = encode_header(metadata, tensors)
        made = bytearray(size)
        made[: len(header)] = header
        for begin, array in zip(begins, arrays, strict=True):
            made[begin : begin + 4 * array.size] = np.ascontiguousarray(array, dtype="<f4").tobytes()
        return bytes(made)


def read_imatrix(path: Path) -> Imatrix:
    """The importance matrix of a file. Raises CheckpointError."""
    file = LocalFile(path)
    if file.read_at(0, min(4, file.size)) == MAGIC:
        return _of_gguf(GgufFile(file))
    return _of_older(path)


def _of_gguf(file: GgufFile) -> Imatrix:
    import numpy as np

    where = file.bytes.name
    if file.metadata.get("general.type") != "imatrix":
        kind = file.metadata.get("general.type", "model")
        _refuse(where, "this GGUF file is no importance matrix", f"general.type is {kind!r:.40}")
    entries: dict[str, Entry] = {}
    for name, info in file.tensors.items():
        if not name.endswith(SUMS):
            continue
        stem = name.removesuffix(SUMS)
        other = file.tensors.get(f"{stem}{COUNTS}")
        matrices = info.elements // max(1, info.shape[-1])
        if other is None or (info.dtype, other.dtype, other.elements) != (F32, F32, matrices):
            _refuse(where, f"the importance of {stem!r} cannot be read", "its counts are missing, or of another size")
        pair = []
        for each in (info, other):
            values = np.empty(each.elements, dtype="<f4")
            file.read_range(each, 0, each.elements, values.data.cast("B"))
            pair.append(values)
        entries[stem] = _entry(where, stem, pair[0].reshape(-1, info.shape[-1]), pair[1])
    if not entries:
        _refuse(where, "this importance matrix is empty", f"no tensor's name ends in {SUMS}")
    texts = file.metadata.get("imatrix.datasets")
    return Imatrix(entries, tuple(map(str, texts)) if isinstance(texts, list) else ())


def _of_older(path: Path) -> Imatrix:
    """llama.cpp's format before 2025: of each tensor its name, a number of calls, and that number times its means."""
    import numpy as np

    where, data = str(path), path.read_bytes()
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        if count < 0 or at + count > len(data):
            _refuse(where, "this is no importance matrix", "it is cut off, or of another format")
        at += count
        return data[at - count : at]

    def number() -> int:
        return struct.unpack("<i", take(4))[0]

    entries: dict[str, Entry] = {}
    count = number()
    if not 0 < count <= ENTRIES_LIMIT:
        _refuse(where, "this is no importance matrix", f"it would have {count} entries")
    for _ in range(count):
        length = number()
        if not 0 < length <= NAME_LIMIT:
            _refuse(where, "this is no importance matrix", f"a name of it would have {length} bytes")
        name = take(length).decode("utf-8", "replace")
        calls, size = number(), number()
        values = np.frombuffer(take(4 * size), dtype="<f4")
        entries[name] = _entry(where, name, values[None, :], np.array([float(max(calls, 1))], dtype=np.float32))
    return Imatrix(entries)


def _entry(where: str, name: str, sums: np.ndarray, counts: np.ndarray) -> Entry:
    import numpy as np

    sound = all(bool(np.isfinite(each).all() and (each >= 0).all()) for each in (sums, counts))
    if not sums.size or not sound:
        why = "a sum of squares is missing, negative, infinite or NaN"
        _refuse(where, f"the importance of {name!r} cannot be used", why)
    return Entry(sums, counts)


def _refuse(where: str, what: str, why: str) -> NoReturn:
    raise CheckpointError(what, where=Where(where), why=why, hint=AGAIN)
