"""Makes windows of a patchwork: gathers ranges of stored tensors and of stages below."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mergery.dtypes import DType
from mergery.engine.reader import Evaluator
from mergery.engine.workspace import CHUNK, Workspace
from mergery.errors import DataError
from mergery.graph.nodes import Gathered, Stored
from mergery.kernels import kernels


class Gathering:
    """Evaluates one patchwork. Stages below keep the window that they made last: ranges of one mostly follow each other."""

    def __init__(
        self, node: Gathered, evaluator: Callable[..., Evaluator], workspace: Workspace, level: int = 0
    ) -> None:
        self.node, self.workspace, self.level = node, workspace, level
        self.inner: list[Evaluator | None] = []
        self.levels = 1
        for source in node.sources:
            inner = None if isinstance(source, Stored) else evaluator(source, level=level + self.levels)
            self.inner.append(inner)
            self.levels += inner.levels if inner is not None else 0
        self.ends = np.cumsum(node.lengths)
        self.kept: dict[int, tuple[int, int]] = {}  # the window of each stage below that its buffer holds

    @property
    def grain(self) -> int:
        """A patchwork can be cut anywhere."""
        return 1

    @property
    def reduces(self) -> bool:
        """Whether the inputs are read more than once."""
        return any(inner.reduces for inner in self.inner if inner is not None)

    def outputs(self) -> Iterator[tuple[int, int]]:
        """The windows in which the result is made."""
        for start in range(0, self.node.elements, CHUNK):
            yield start, min(self.node.elements, start + CHUNK)

    def prepare(self) -> None:
        """Run the reductions of the stages below."""
        for inner in self.inner:
            if inner is not None:
                inner.prepare()

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """Elements [start, stop) in `dtype`, as bytes at the start of `out`."""
        size = dtype.itemsize
        patch = int(np.searchsorted(self.ends, start, side="right"))
        done = start
        while done < stop:
            end = min(stop, int(self.ends[patch]))
            source = int(self.node.which[patch])
            into = out[(done - start) * size : (end - start) * size]
            if source < 0:
                into[:] = 0
            else:
                first = int(self.node.starts[patch]) + done - int(self.ends[patch] - self.node.lengths[patch])
                self._gather(source, first, first + end - done, into, dtype)
            done, patch = end, patch + 1

    def _gather(self, source: int, start: int, stop: int, into: np.ndarray, dtype: DType) -> None:
        node, inner = self.node.sources[source], self.inner[source]
        if inner is not None:
            self._stage(source, inner, start, stop, into, dtype)
            return
        assert isinstance(node, Stored)
        if node.dtype == dtype:
            node.checkpoint.read(node.info.name, start, stop, into)
            return
        raw = self.workspace.row(self.level, "patch", (stop - start) * node.dtype.itemsize)
        node.checkpoint.read(node.info.name, start, stop, raw)
        status = kernels().convert(raw, node.dtype.code, stop - start, into, dtype.code)
        if status:
            fault = "holds NaN or infinity" if status & 1 else f"does not fit into {dtype}"
            raise DataError(f"tensor {node.info.name!r} of model {node.model!r} {fault}")

    def _stage(self, source: int, inner: Evaluator, start: int, stop: int, into: np.ndarray, dtype: DType) -> None:
        """A range of a stage below, from the window of whole grains around it."""
        node = self.node.sources[source]
        size, grain = dtype.itemsize, inner.grain
        low, high = start // grain * grain, min(node.elements, -(-stop // grain) * grain)
        have = self.kept.get(source)
        if have is None or not have[0] <= start <= stop <= have[1]:
            inner.compute(low, high, self.workspace.row(self.level, f"stage {source}", (high - low) * size), dtype)
            self.kept[source] = have = (low, high)
        buffer = self.workspace.row(self.level, f"stage {source}", (have[1] - have[0]) * size)
        into[:] = buffer[(start - have[0]) * size : (stop - have[0]) * size]
