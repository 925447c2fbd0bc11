"""Output files laid out before anything is computed: which tensor stands where, in which shard."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.file_names import DIFFUSERS, MODEL
from mergery.checkpoints.modules import prefix_of
from mergery.errors import PlanError

SINGLE = "model.safetensors"
INDEXES = tuple(f"{stem}.safetensors.index.json" for stem in (MODEL, DIFFUSERS))
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.safetensors")
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
    """All files of weights of one output: its shards, and those of modules, each in a folder of its own."""

    shards: tuple[Shard, ...]
    slots: tuple[Slot, ...]
    stem: str = MODEL  # what the shards are called

    @property
    def nbytes(self) -> int:
        return sum(shard.size for shard in self.shards)

    def index(self) -> dict[str, bytes]:
        """The index file's name and content; empty where the model is one file. Modules are not in it."""
        own = [number for number, shard in enumerate(self.shards) if "/" not in shard.name]
        if len(own) < 2:
            return {}
        slots = [slot for slot in self.slots if slot.shard < len(own)]
        weight_map = {slot.info.name: self.shards[slot.shard].name for slot in slots}
        metadata = {"total_size": sum(slot.info.nbytes for slot in slots)}
        text = json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2) + "\n"
        return {f"{self.stem}.safetensors.index.json": text.encode()}


def lay_out(
    infos: Iterable[TensorInfo],
    shard_size: int,
    metadata: Mapping[str, str],
    *,
    stem: str = MODEL,
    modules: Sequence[str] = (),
) -> Layout:
    """Fill shards in order, each up to `shard_size` bytes of tensors (a larger tensor has one to itself).

    Within a shard wider types stand first, as safetensors writes them, so that every tensor is aligned. Tensors whose names
    begin with that of a module's folder stand in a file there, without it.
    """
    infos = list(infos)
    names = Counter([METADATA, *(info.name for info in infos)])
    if len(names) <= len(infos):
        twice = names.most_common(1)[0][0]
        raise PlanError(
            f"the tensor name {twice!r} cannot be written",
            why="another tensor, or safetensors itself, has it",
            hint="rename it in the model's file",
        )
    own, behind = _by_module(infos, modules)
    groups: list[list[TensorInfo]] = [[]]
    filled = 0
    for info in own:
        nbytes = info.nbytes
        if groups[-1] and filled + nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(info)
        filled += nbytes
    count = len(groups)
    files = {
        f"{stem}.safetensors" if count == 1 else f"{stem}-{number + 1:05d}-of-{count:05d}.safetensors": group
        for number, group in enumerate(groups)
    }
    if behind and not own:
        files = {}
    files |= {f"{folder}/{SINGLE}": group for folder, group in behind.items()}
    shards: list[Shard] = []
    slots: list[Slot] = []
    for number, (file, group) in enumerate(files.items()):
        group.sort(key=lambda info: -info.dtype.itemsize)
        prefix = prefix_of(file.rpartition("/")[0]) if "/" in file else ""
        inner = [info._replace(name=info.name.removeprefix(prefix)) for info in group] if prefix else group
        text, begins, end = _describe(inner, metadata)
        text += b" " * (-len(text) % 8)
        header = len(text).to_bytes(8, "little") + text
        shards.append(Shard(file, header, len(header) + end))
        slots += [Slot(info, number, len(header) + begin) for info, begin in zip(group, begins, strict=True)]
    return Layout(tuple(shards), tuple(slots), stem)


def _by_module(infos: list[TensorInfo], modules: Sequence[str]) -> tuple[list[TensorInfo], dict[str, list[TensorInfo]]]:
    """The model's own tensors, and those of each module."""
    if not modules:
        return infos, {}
    own: list[TensorInfo] = []
    behind: dict[str, list[TensorInfo]] = {}
    deepest = sorted(modules, key=len, reverse=True)  # a module may lie in another's folder
    for info in infos:
        folder = next((each for each in deepest if info.name.startswith(prefix_of(each))), None)
        (own if folder is None else behind.setdefault(folder, [])).append(info)
    return own, behind


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
