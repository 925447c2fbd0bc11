"""The weight files of a model, side by side: which tensor stands in which file, and whether an index tells the truth."""

from __future__ import annotations

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.byte_files import ByteFile
from mergery.errors import CheckpointError, Where, did_you_mean

if TYPE_CHECKING:
    import numpy as np

HASH_BLOCK = 4 << 20
SAMPLES, SAMPLE_BYTES = 16, 4096


class WeightFile(ABC):
    """One file of tensors: its headers are known, its values are read by slice."""

    bytes: ByteFile
    tensors: dict[str, TensorInfo]
    header_sha256: str
    unread: tuple[str, ...] = ()  # entries of the file that are not weights
    aliases: Mapping[str, str] = MappingProxyType({})  # see `Checkpoint.aliases`

    @abstractmethod
    def read_range(self, info: TensorInfo, start: int, stop: int, into: memoryview) -> None:
        """Fill `into` with elements [start, stop) of a tensor here; the caller has checked the bounds."""


@dataclass(frozen=True)
class Weights:
    """Weight files by name, and the one home of each tensor."""

    files: Mapping[str, WeightFile]
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    homes: dict[str, WeightFile] = field(default_factory=dict)

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        """Fill `into` as `Checkpoint.read` says."""
        info = self.tensors.get(name)
        if info is None:
            raise CheckpointError(f"no tensor {name!r} here", hint=did_you_mean(name, self.tensors))
        view = byte_view(info, start, stop, into)
        if len(view):
            self.homes[name].read_range(info, start, stop, view)

    @property
    def aliases(self) -> dict[str, str]:
        """See `Checkpoint.aliases`."""
        return {name: other for file in self.files.values() for name, other in file.aliases.items()}

    def close(self) -> None:
        for file in self.files.values():
            file.bytes.close()


def byte_view(info: TensorInfo, start: int, stop: int, into: np.ndarray) -> memoryview:
    """`into` as plain bytes, once the range is known to lie in the tensor and to fill it exactly."""
    if not 0 <= start <= stop <= info.elements:
        raise ValueError(f"{info.name}: elements [{start}, {stop}) are not within 0..{info.elements}")
    bits = info.dtype.bits
    if start * bits % 8 or stop * bits % 8:
        raise ValueError(f"{info.name}: elements [{start}, {stop}) of {bits} bits do not begin and end on a byte")
    wanted = (stop - start) * bits // 8
    if into.nbytes != wanted or into.dtype.itemsize != 1 or not into.flags.c_contiguous:
        found = f"{into.nbytes} of {into.dtype}"
        raise ValueError(f"{info.name}: `into` must be {wanted} contiguous bytes of uint8, not {found}")
    return into.data.cast("B") if wanted else memoryview(b"")


def join(files: Mapping[str, WeightFile], index: str = "", weight_map: Mapping[str, str] | None = None) -> Weights:
    """Files as one set of tensors. Where there is an index, file and index must name the same tensors; else no tensor may
    stand twice.
    """
    weights = Weights(files)
    for file_name, file in files.items():
        if weight_map is not None and any(weight_map.get(name) != file_name for name in file.tensors):
            raise _unmapped(index, file_name, file, weight_map)
        weights.tensors.update(file.tensors)
        weights.homes.update(dict.fromkeys(file.tensors, file))
    if len(weights.tensors) < sum(len(file.tensors) for file in files.values()):
        raise _twice(files)
    for name, file_name in (weight_map or {}).items():
        if name not in weights.tensors:
            raise CheckpointError(
                f"tensor {name!r} should stand in {file_name}, but is not there",
                where=Where(index),
                why=f"{file_name} holds {len(files[file_name].tensors)} tensors, none of that name",
                hint="index and shards are of different models: download or save the model again",
            )
    return weights


def _unmapped(index: str, file_name: str, file: WeightFile, weight_map: Mapping[str, str]) -> CheckpointError:
    lost = [name for name in file.tensors if weight_map.get(name) != file_name]
    elsewhere = weight_map.get(lost[0])
    shown = ", ".join(repr(name) for name in lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return CheckpointError(
        f"{file_name} holds tensors that the index does not place there: {shown}",
        where=Where(index),
        why=f"the index places {lost[0]!r} in {elsewhere}" if elsewhere else "they would be lost silently",
        hint="index and shards are of different models: download or save the model again",
    )


def _twice(files: Mapping[str, WeightFile]) -> CheckpointError:
    seen: dict[str, str] = {}
    for file_name, file in files.items():
        if both := seen.keys() & file.tensors.keys():
            name = min(both)
            return CheckpointError(
                f"tensor {name!r} stands twice",
                where=Where(file.bytes.name),
                why=f"it stands in {seen[name]} too, and so do {len(both) - 1} others: they are no shards of one model",
                hint="download or save the model again, with its index",
            )
        seen |= dict.fromkeys(file.tensors, file_name)
    raise AssertionError("no tensor stands twice")


def file_marks(weights: Weights) -> list[dict[str, Any]]:
    """What a lock file keeps of each weight file: its size, and hashes of its header and of a few samples.

    Fine-tunes of one model have equal headers, so 16 blocks of 4 KiB, spread evenly, are hashed as well. This
    is cheap and tells fine-tunes apart; it is no proof of equality, which `hash_contents` is.
    """
    return [
        {
            "file": name,
            "size": file.bytes.size,
            "header_sha256": file.header_sha256,
            "sample_sha256": _sample(file.bytes),
        }
        for name, file in weights.files.items()
    ]


def _sample(file: ByteFile) -> str:
    digest = hashlib.sha256()
    length = min(SAMPLE_BYTES, file.size)
    for step in range(SAMPLES):
        digest.update(file.read_at((file.size - length) * step // (SAMPLES - 1), length))
    return digest.hexdigest()


def hash_files(weights: Weights, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
    """The SHA-256 of each weight file's whole content. Reads every byte once, several files at a time."""
    total, done = sum(file.bytes.size for file in weights.files.values()), 0
    lock = threading.Lock()

    def hash_file(file: ByteFile) -> str:
        nonlocal done
        digest, block = hashlib.sha256(), memoryview(bytearray(min(HASH_BLOCK, file.size)))
        for offset in range(0, file.size, HASH_BLOCK):
            part = block[: file.size - offset]
            file.read_into(offset, part)
            digest.update(part)
            with lock:
                done += len(part)
                if progress:
                    progress(done, total)
        return digest.hexdigest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashes = pool.map(hash_file, [file.bytes for file in weights.files.values()])
        return dict(zip(weights.files, hashes, strict=True))
