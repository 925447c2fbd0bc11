"""Output files laid out before anything is computed: which tensor stands where, in which shard."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from weft.checkpoints.base import TensorInfo
from weft.errors import PlanError

INDEX = "model.safetensors.index.json"


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
        entries: dict[str, object] = {"__metadata__": dict(metadata)}
        end = 0
        begins: list[int] = []
        for info in group:
            name, shape, dtype = info
            if name in entries:
                raise PlanError(f"the tensor name {name!r} cannot be written", why="safetensors reserves it")
            begin, end = end, end + info.nbytes
            begins.append(begin)
            entries[name] = {"dtype": dtype.name, "shape": shape, "data_offsets": (begin, end)}
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        header = len(text).to_bytes(8, "little") + text
        name = "model.safetensors" if len(groups) == 1 else f"model-{number + 1:05d}-of-{len(groups):05d}.safetensors"
        shards.append(Shard(name, header, len(header) + end))
        slots += [Slot(info, number, len(header) + begin) for info, begin in zip(group, begins, strict=True)]
    return Layout(tuple(shards), tuple(slots))
