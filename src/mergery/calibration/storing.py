"""Writing statistics: a weight file for each unit of the model as it is done, then the index and `statistics.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.statistics import FILE, Statistics
from mergery.dtypes import F32
from mergery.errors import PlanError
from mergery.planning.layout import lay_out
from mergery.run.output import check_writable, partial_folder, place_of, write_at_once

JOURNAL = "progress.json"
WHOLE = 1 << 62  # bytes of a file: what it is given stands in it


class Store:
    """A folder of statistics that is being written. `add` may be called again for the same tensors: sums add up."""

    def __init__(self, out: str | Path) -> None:
        """Raises PlanError where there is something already, or nothing can be written."""
        self.out = place_of(out)
        if self.out.exists() and any(self.out.iterdir()):
            why = "nothing that exists is overwritten"
            raise PlanError(f"the output folder {str(self.out)!r} is not empty", why=why, hint="choose another folder")
        check_writable(self.out)
        self.partial = partial_folder(self.out)
        self.files: dict[str, dict[str, TensorInfo]] = {}  # tensors by the name of their unit
        self.told: Any = None
        self.steps: list[dict[str, Any]] = []
        self.resumable = True

    def begin(self, told: Any) -> list[dict[str, Any]]:
        """Make the folder, or take up what an interrupted run has left: what it noted of each step that was done.

        told: plain data that determines the statistics. What was left of others is removed.
        """
        self.told = json.loads(json.dumps(told))
        if self.partial.exists():
            if not (self.partial / FILE).exists() and any(self.partial.iterdir()):
                raise PlanError(f"{str(self.partial)!r} stands in the way", hint="rename it, or choose another folder")
            left = self._left()
            if left:
                for step in left:
                    names = {name: TensorInfo(name, tuple(shape), F32) for name, shape in step["tensors"].items()}
                    if names:
                        self.files[step["unit"]] = names
                self.steps = left
                return left
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)
        (self.partial / FILE).write_text("{}\n")
        return []

    def forget(self) -> None:
        """Let what has been done so far not be taken up: it is going to be changed in its place."""
        self.resumable = False
        (self.partial / JOURNAL).unlink(missing_ok=True)

    def _left(self) -> list[dict[str, Any]]:
        """The steps that an interrupted run of the same kind has done."""
        try:
            kept = json.loads((self.partial / JOURNAL).read_text())
        except (OSError, ValueError):
            return []
        return kept["steps"] if kept.get("told") == self.told else []

    def step(self, unit: str, arrays: Mapping[str, np.ndarray], note: Any) -> None:
        """Write a unit's arrays as one step, which an interrupted run need not do again. `note` is given back by `begin`."""
        if unit in self.files:  # sums that are added twice must not be: such a run cannot be taken up
            self.forget()
        self.add(unit, arrays)
        self.steps.append(
            {"unit": unit, "tensors": {name: list(array.shape) for name, array in arrays.items()}, "note": note}
        )
        if self.resumable:
            write_at_once(self.partial / JOURNAL, json.dumps({"told": self.told, "steps": self.steps}))

    def add(self, unit: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Write float32 arrays, or add them to what the unit's file holds."""
        if not arrays:
            return
        fresh = unit not in self.files
        infos = [TensorInfo(name, array.shape, F32) for name, array in arrays.items()]
        self.files.setdefault(unit, {info.name: info for info in infos})
        layout = lay_out(self.files[unit].values(), WHOLE, {"format": "pt"})
        (shard,) = layout.shards
        path = self.partial / self._file(unit)
        if fresh:
            with open(path, "wb") as file:
                file.write(shard.header)
                file.truncate(shard.size)
        for slot in layout.slots:
            array = arrays.get(slot.info.name)
            if array is not None and array.size:
                kept = np.memmap(path, np.float32, "r+", slot.offset, array.shape)
                kept[...] = array if fresh else kept + array
                kept.flush()

    def finish(self, statistics: Statistics) -> None:
        """Write the index and what the statistics are of, and give the folder its name."""
        self.forget()
        total, weight_map = 0, {}
        count = len(self.files)
        for number, (unit, infos) in enumerate(self.files.items(), 1):
            name = f"model-{number:05d}-of-{count:05d}.safetensors"
            (self.partial / self._file(unit)).rename(self.partial / name)
            weight_map |= dict.fromkeys(infos, name)
            total += sum(info.nbytes for info in infos.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (self.partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
        (self.partial / FILE).write_text(statistics.text())
        if self.out.exists():
            self.out.rmdir()
        self.partial.rename(self.out)

    def _file(self, unit: str) -> str:
        return f"{unit}.part"
