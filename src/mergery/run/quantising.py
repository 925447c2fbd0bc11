"""A merge, or a model, written with its matrices as codes, in the layout of compressed-tensors."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.quantised.writing import Scheme, packed
from mergery.dtypes import F32
from mergery.errors import DataError
from mergery.kernels.devices import CPU
from mergery.kernels.rounding import Grid, gptq, nearest, scales_of
from mergery.planning.layout import Slot
from mergery.planning.plan import Plan
from mergery.planning.quantised import QuantisedPlan, quantised_plan
from mergery.planning.steps import Step
from mergery.run.events import Notify
from mergery.run.merging import Result, SideFiles, merge_to_folder
from mergery.run.sinks import FolderSink, write_problem, write_whole
from mergery.run.workers import Options


def export_quantised(
    plan: Plan,
    out: Path,
    side_files: SideFiles,
    scheme: Scheme,
    statistics: Checkpoint | None,
    options: Options,
    notify: Notify,
    *,
    replace: bool = False,
    restart: bool = False,
) -> Result:
    """Write the model folder `out`; see `mergery.api.export_quantised`."""
    made = quantised_plan(plan, scheme, statistics)
    sink = partial(QuantisedSink, made)
    return merge_to_folder(
        made.plan, out, side_files, options, notify, replace=replace, restart=restart, make_sink=sink
    )


@dataclass
class _Matrix:
    """A matrix under way: rows that are not whole yet, and what has been written of it."""

    rest: np.ndarray  # float32, of rows or of the whole matrix
    filled: int = 0
    written: int = 0  # rows
    hashes: tuple[Any, ...] = field(default_factory=lambda: (blake3(), blake3(), blake3()))


class QuantisedSink(FolderSink):
    """Writes a model folder whose matrices become codes: row by row as they come, of GPTQ when a matrix is whole.

    Of such a matrix the journal has the digests of codes, scales and shape, with spaces between them.
    """

    def __init__(
        self, made: QuantisedPlan, plan: Plan, out: Path, device: str = CPU.kind, *, restart: bool = False
    ) -> None:
        self.quantised, self.under_way = made, {}
        self.lock = threading.Lock()
        scheme = made.scheme
        self.grid = Grid(scheme.bits, scheme.floating, scheme.group)
        super().__init__(plan, out, device, restart=restart)

    @property
    def digests(self) -> Mapping[str, str]:
        """See `FolderSink.digests`: of what is written, not of what it is made of."""
        found: dict[str, str] = {}
        for name, digest in super().digests.items():
            places = self.quantised.places.get(name)
            names = [name] if places is None else [slot.info.name for slot in places]
            found |= dict(zip(names, digest.split(" "), strict=True))
        return found

    def shards_of(self, step: Step) -> set[int]:
        """See `FolderSink.shards_of`."""
        places = self.quantised.places.get(step.name)
        return super().shards_of(step) if places is None else {slot.shard for slot in places}

    def write(self, slot: Slot, start: int, data: np.ndarray) -> None:
        """See `FolderSink.write`. Of one tensor, bytes come in order, from one thread."""
        places = self.quantised.places.get(slot.info.name)
        if places is None:
            super().write(slot, start, data)
            return
        height, width = slot.info.shape
        whole = slot.info.name in self.quantised.grams
        matrix = self.under_way.get(slot.info.name)
        if matrix is None or start == 0:
            matrix = _Matrix(np.empty(height * width if whole else 0, np.float32))
            with self.lock:
                self.under_way[slot.info.name] = matrix
        values = data.view(np.float32)
        if whole:
            matrix.rest[matrix.filled : matrix.filled + values.size] = values
            matrix.filled += values.size
            rows = matrix.rest if matrix.filled == matrix.rest.size else matrix.rest[:0]
        else:
            values = np.concatenate([matrix.rest, values])
            count = values.size // width * width
            rows, matrix.rest = values[:count], values[count:].copy()
        if rows.size:
            self._write_rows(slot, places, matrix, torch.from_numpy(rows).reshape(-1, width))

    def _write_rows(self, slot: Slot, places: tuple[Slot, ...], matrix: _Matrix, rows: torch.Tensor) -> None:
        """Write the codes and scales of whole rows, and behind the last the matrix's shape."""
        dtype = getattr(torch, places[1].info.dtype.torch)
        scales = scales_of(rows, self.grid, dtype)
        if not bool(scales.isfinite().all()):
            hint = "that checkpoint is damaged; use another one"
            raise DataError(
                f"tensor {slot.info.name!r} holds NaN or infinity, or does not fit into {places[1].info.dtype}",
                hint=hint,
            )
        name = self.quantised.grams.get(slot.info.name)
        codes = nearest(rows, scales, self.grid) if name is None else gptq(rows, scales, self.grid, self._gram(name))
        pieces = [self._stored(codes), scales.to(dtype).view(torch.uint8).numpy()]
        last = matrix.written + len(rows) == slot.info.shape[0]
        if last and len(places) == 3:
            pieces.append(np.array(slot.info.shape, np.int64).view(np.uint8))
        for place, hasher, piece in zip(places, matrix.hashes, pieces, strict=False):
            flat = np.ascontiguousarray(piece).reshape(-1)
            row = place.info.nbytes // place.info.shape[0] if len(place.info.shape) == 2 else 0
            hasher.update(flat.data)
            try:
                write_whole(self.files[place.shard], flat.data, place.offset + matrix.written * row)
            except OSError as error:
                raise write_problem(error, self.partial) from None
        matrix.written += len(rows)

    def _stored(self, codes: torch.Tensor) -> np.ndarray:
        if self.grid.floating:
            return codes.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
        return packed(codes.numpy(), self.grid.bits)

    def _gram(self, name: str) -> torch.Tensor:
        statistics = self.quantised.statistics
        assert statistics is not None
        info = statistics.tensors[name]
        values = np.empty(info.elements, np.float32)
        assert info.dtype == F32
        statistics.read(name, 0, info.elements, values.view(np.uint8))
        return torch.from_numpy(values).reshape(info.shape)

    def finished(self, steps: list[Step], digests: Mapping[str, str]) -> None:
        """See `FolderSink.finished`: of a matrix, the digests are those of what is written of it."""
        made = dict(digests)
        for step in steps:
            places = self.quantised.places.get(step.name)
            if places is not None:
                with self.lock:
                    matrix = self.under_way.pop(step.name)
                made[step.name] = " ".join(each.hexdigest() for each, _ in zip(matrix.hashes, places, strict=False))
        super().finished(steps, made)
