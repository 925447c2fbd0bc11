"""Writing statistics: a weight file for each unit of the model as it is done, then the index and `statistics.json`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.statistics import FILE, Statistics
from mergery.dtypes import F32
from mergery.errors import PlanError
from mergery.planning.layout import lay_out
from mergery.run.output import check_writable, partial_folder, place_of

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

    def begin(self) -> None:
        """Make the folder. What an interrupted run has left is removed."""
        if self.partial.exists():
            if not (self.partial / FILE).exists() and any(self.partial.iterdir()):
                raise PlanError(f"{str(self.partial)!r} stands in the way", hint="rename it, or choose another folder")
            shutil.rmtree(self.partial)
        self.partial.mkdir(parents=True)
        (self.partial / FILE).write_text("{}\n")

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
