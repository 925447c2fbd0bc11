"""Packed models: a base, and what a serving method keeps of its tasks, as one model for each task.

A packed folder holds `packed.json`, which says what it is, and `packed.safetensors` with parts named `tensor::part`
(shared) or `tensor::part::task`. A task's model is the base plus its task vector, in float32, made slice by slice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import Checkpoint, Contents, TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.folder import FileCheckpoint
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.weights import byte_view
from mergery.dtypes import DTYPES, F32
from mergery.errors import CheckpointError, Where, did_you_mean
from mergery.method.packing import PackedPart, Packing

if TYPE_CHECKING:
    import numpy as np

CARD = "packed.json"
WEIGHTS = "packed.safetensors"
AGAIN = "pack the models again"
FORMAT = 1
KINDS = ("values", "bits", "number", "rows", "matrix")


def part_name(tensor: str, part: str, task: str | None) -> str:
    """The name under which a part is stored; `task` is None for one that all tasks share."""
    return f"{tensor}::{part}" if task is None else f"{tensor}::{part}::{task}"


def part_info(name: str, rule: PackedPart, shape: tuple[int, ...]) -> TensorInfo:
    """The header of a part of a tensor with this shape."""
    if rule.kind == "bits":
        return TensorInfo(name, (-(-math.prod(shape) // 8),), DTYPES["U8"])
    shapes = {"values": shape, "number": (), "rows": (rows_of(shape), rule.width), "matrix": rule.shape}
    return TensorInfo(name, shapes[rule.kind], F32)


def rows_of(shape: tuple[int, ...]) -> int:
    """How many rows a tensor has; a vector is one."""
    return shape[0] if len(shape) > 1 else 1


class PackedCheckpoint(Checkpoint):
    """One task's model of a packed folder. Tensors that the method merged are float32, others are the base's.

    `open_base` opens the checkpoint that the folder names, as `open_checkpoint` does.
    """

    def __init__(self, path: Path, task: str | None, label: str | None, open_base: Callable[..., Checkpoint]) -> None:
        self.location = str(path)
        self._path = path
        card = self._read_card()
        tasks = [str(each) for each in card["tasks"]]
        if task not in tasks:
            known = f"it holds {', '.join(tasks)}"
            hint = did_you_mean(task, tasks) if task else f"{{path: {path}, task: {tasks[0]}}}"
            what = (
                f"no task {task!r} is packed here" if task else "this folder holds packed models, and no task is named"
            )
            raise CheckpointError(what, where=Where(self.location), why=known, hint=hint)
        self.task, self.label = task, label or f"{path.name}:{task}"
        self._kinds: dict[str, Any] = card["parts"]  # as in `PackedPart.kind`
        self._packing = self._find_packing(str(card["method"]))
        self._parts = FileCheckpoint(path / WEIGHTS, label)
        self._base = self._same_base(card["base"], open_base)
        self._of: dict[str, dict[str, TensorInfo]] = {}
        self._tensors: dict[str, TensorInfo] = {}
        self._match()

    def _read_card(self) -> dict[str, Any]:
        where = f"{self.location}/{CARD}"
        try:
            card = parse_object((self._path / CARD).read_bytes(), where)
        except OSError as error:
            why = str(error.strerror)
            raise CheckpointError("this file cannot be read", where=Where(where), why=why, hint=AGAIN) from None
        if card.get("format") != FORMAT:
            why = f"its format is {card.get('format')!r}, and this version reads {FORMAT}"
            raise CheckpointError("these packed models cannot be read", where=Where(where), why=why, hint=AGAIN)
        base, parts = card.get("base"), card.get("parts")
        sound = isinstance(base, dict) and isinstance(base.get("location"), str)
        sound = sound and isinstance(card.get("tasks"), list) and bool(card["tasks"])
        if not sound or not isinstance(parts, dict) or any(kind not in KINDS for kind in parts.values()):
            why = "the file is damaged"
            raise CheckpointError("these packed models cannot be read", where=Where(where), why=why, hint=AGAIN)
        return card

    def _find_packing(self, name: str) -> Packing:
        from mergery.method import methods

        method = methods().get(name)
        if method is None or method.packing is None:
            why = f"they were packed by {name!r}, which is no method here that packs"
            hint = "install the package that has this method"
            raise CheckpointError(
                "these packed models cannot be served", where=Where(self.location), why=why, hint=hint
            )
        return method.packing

    def _same_base(self, base: Mapping[str, Any], open_base: Callable[..., Checkpoint]) -> Checkpoint:
        """The base, which must be the one that was packed."""
        opened = open_base(base["location"], revision=base.get("revision"), label=f"the base of {self.label}")
        mark = json.loads(json.dumps(opened.fingerprint(), default=str))
        if {**mark, "location": ""} != {**base.get("fingerprint", {}), "location": ""}:
            opened.close()
            raise CheckpointError(
                f"the base {base['location']!r} is not the one that was packed",
                where=Where(self.location),
                why="its files have changed since",
                hint="restore them, or pack the models again",
            )
        return opened

    def _match(self) -> None:
        """Find each tensor's parts, and check that they are all there and fit."""
        for name, info in self._base.tensors.items():
            found: dict[str, TensorInfo] = {}
            for part, kind in self._kinds.items():
                stored = self._parts.tensors.get(part_name(name, part, self.task))
                stored = stored or self._parts.tensors.get(part_name(name, part, None))
                if stored is None:
                    continue
                width, shape = (stored.shape[-1] if stored.shape else 0), stored.shape
                wanted = part_info(stored.name, PackedPart(kind, width=width, shape=shape), info.shape)
                if stored != wanted:
                    why = f"{stored.name!r} is {stored.dtype} {list(stored.shape)}, not {wanted.dtype} {list(wanted.shape)}"
                    raise CheckpointError(
                        "the parts do not fit the base", where=Where(self.location), why=why, hint=AGAIN
                    )
                found[part] = stored
            if found:
                self._of[name] = found
            self._tensors[name] = TensorInfo(name, info.shape, F32) if found else info
        strays = {name.split("::")[0] for name in self._parts.tensors} - set(self._of)
        if strays:
            why = f"there are parts of {sorted(strays)[0]!r}, which the base lacks"
            raise CheckpointError("the parts do not fit the base", where=Where(self.location), why=why, hint=AGAIN)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        if name not in self._of:
            self._base.read(name, start, stop, into)
            return
        if len(byte_view(self._tensors[name], start, stop, into)):
            import numpy as np
            import torch

            info = self._base.tensors[name]
            raw = np.empty((stop - start) * info.dtype.itemsize, np.uint8)
            self._base.read(name, start, stop, raw)
            base = torch.from_numpy(raw).view(getattr(torch, info.dtype.torch)).to(torch.float32)
            delta = self._task_vector(name, info, start, stop)
            into.reshape(-1)[:] = (base + delta).contiguous().view(torch.uint8).numpy()

    def _task_vector(self, name: str, info: TensorInfo, start: int, stop: int) -> Any:
        """Elements [start, stop), from pieces as the method's packing wants them."""
        import numpy as np
        import torch

        columns = info.elements // rows_of(info.shape)
        first, last = (start // columns, -(-stop // columns)) if self._packing.by_row else (0, 0)
        low, high = (first * columns, last * columns) if self._packing.by_row else (start, stop)
        parts: dict[str, Any] = {}
        for part, stored in self._of[name].items():
            kind = self._kinds[part]
            if kind == "bits":
                packed = self._load(stored, low // 8, -(-high // 8))
                value = np.unpackbits(packed, bitorder="little")[low % 8 : low % 8 + high - low].astype(bool)
            elif kind == "number":
                value = self._load(stored, 0, 1)
            elif kind == "rows":
                width = stored.shape[1]
                value = self._load(stored, first * width, last * width).reshape(-1, width)
            else:
                value = self._load(stored, *((low, high) if kind == "values" else (0, stored.elements)))
                value = value.reshape(stored.shape) if kind == "matrix" else value
            if self._packing.by_row and kind in ("values", "bits"):
                value = value.reshape(-1, columns)
            parts[part] = float(value[0]) if kind == "number" else torch.from_numpy(value)
        return self._packing.unpack(parts).reshape(-1)[start - low : stop - low]

    def _load(self, stored: TensorInfo, first: int, last: int) -> np.ndarray:
        """Elements of a part: uint8, or float32."""
        import numpy as np

        raw = np.empty((last - first) * stored.dtype.itemsize, np.uint8)
        self._parts.read(stored.name, first, last, raw)
        return raw if stored.dtype != F32 else raw.view(np.float32)

    @property
    def config(self) -> Config:
        return self._base.config

    @property
    def contents(self) -> Contents:
        return self._base.contents

    def file(self, name: str) -> bytes:
        return self._base.file(name)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        self._base.prepare(progress)

    def fingerprint(self) -> dict[str, Any]:
        mark = {"parts": self._parts.fingerprint()["files"], "base": {**self._base.fingerprint(), "location": ""}}
        return {"location": self.location, "task": self.task, **mark}

    def stamp(self) -> dict[str, list[int]]:
        return {**self._parts.stamp(), **{f"base/{name}": stamp for name, stamp in self._base.stamp().items()}}

    def close(self) -> None:
        self._parts.close()
        self._base.close()
