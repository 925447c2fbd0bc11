"""Output files laid out before anything is computed: which tensor stands where, in which shard."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mergery.checkpoints.base import TensorInfo
from mergery.errors import PlanError

INDEX = "model.safetensors.index.json"
METADATA = "__metadata__"  # the one name that is no tensor's


class Slot(NamedTuple):
    """The place of one output tensor. `offset` counts bytes from the start of the shard's file."""

    info: TensorInfo
    shard: int
    offset: int


@dataclass(frozen=True)
class Shard:
    """One safetensors file of the output."""

    name: str
    header: bytes  # with its length prefix and padding
    size: int  # of the whole file


@dataclass(frozen=True)
class Layout:
    """All files of weights of one output."""

    shards: tuple[Shard, ...]
    slots: tuple[Slot, ...]

    @property
    def nbytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    def index(self) -> bytes | None:
        """The content of the index file; None for a single file."""
        if len(self.shards) == 1:
            return None
        total = sum(slot.info.nbytes for slot in self.slots)
        weight_map = {slot.info.name: self.shards[slot.shard].name for slot in self.slots}
        return (json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n").encode()


def lay_out(infos: Iterable[TensorInfo], shard_size: int, metadata: Mapping[str, str]) -> Layout:
    """Fill shards in order, each up to `shard_size` bytes of tensors (a larger tensor has one to itself).

    Within a shard wider types stand first, as safetensors writes them, so that every tensor is aligned.
    """
    infos = list(infos)
    names = Counter([METADATA, *(info.name for info in infos)])
    if len(names) <= len(infos):
        twice = names.most_common(1)[0][0]
        raise PlanError(
            f"the tensor name {twice!r} cannot be written", why="another tensor, or safetensors itself, has it"
        )
    groups: list[list[TensorInfo]] = [[]]
    filled = 0
    for info in infos:
        nbytes = info.nbytes
        if groups[-1] and filled + nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(info)
        filled += nbytes
    shards: list[Shard] = []
    slots: list[Slot] = []
    for number, group in enumerate(groups):
        group.sort(key=lambda info: -info.dtype.itemsize)
        text, begins, end = _describe(group, metadata)
        text += b" " * (-len(text) % 8)
        header = len(text).to_bytes(8, "little") + text
        name = "model.safetensors" if len(groups) == 1 else f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        shards.append(Shard(name, header, len(header) + end))
        slots += [Slot(info, number, len(header) + begin) for info, begin in zip(group, begins, strict=True)]
    return Layout(tuple(shards), tuple(slots))


def _describe(infos: Sequence[TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, list[int], int]:
    """A file's header as JSON, where each tensor begins in the data, and where the data ends.

    Names are quoted all at once, and all else of an entry is put together by hand: there may be 100,000.
    """
    names = json.dumps([info.name for info in infos], separators=("\n", ":"), ensure_ascii=False)[1:-1]
    quoted = names.split("\n") if names else []
    entries = [f'"{METADATA}":{json.dumps(dict(metadata), separators=(",", ":"), ensure_ascii=False)}']
    begins: list[int] = []
    end = 0
    known: dict[tuple[str, tuple[int, ...]], tuple[str, int]] = {}  # dtype and shape in words, and bytes
    for name, (_, shape, dtype) in zip(quoted, infos, strict=True):
        kind = (dtype.name, shape)
        if kind not in known:
            sides = ",".join(map(str, shape))
            known[kind] = f'"dtype":"{dtype.name}","shape":[{sides}]', math.prod(shape) * dtype.bits // 8
        words, nbytes = known[kind]
        begins.append(end)
        entries.append(f'{name}:{{{words},"data_offsets":[{end},{end + nbytes}]}}')
        end += nbytes
    return f"{{{','.join(entries)}}}".encode(), begins, end
