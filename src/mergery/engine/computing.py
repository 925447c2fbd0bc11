"""Makes a derived tensor: gives its function readers of the sources, and keeps what it returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mergery.dtypes import F32, DType
from mergery.engine.reader import Evaluator
from mergery.engine.workspace import CHUNK, Workspace
from mergery.errors import DataError
from mergery.graph.nodes import Computed, Node, Read, Stored
from mergery.kernels import kernels


class Computing:
    """Evaluates one derived tensor, whole, when it is first wanted."""

    reduces = True
    grain = 1

    def __init__(
        self, node: Computed, evaluator: Callable[..., Evaluator], workspace: Workspace, level: int = 0
    ) -> None:
        self.node, self.workspace, self.level = node, workspace, level
        self.inner: list[Evaluator | None] = []
        self.levels = 1
        for source in node.sources:
            inner = None if isinstance(source, Stored) else evaluator(source, level=level + self.levels)
            self.inner.append(inner)
            self.levels += inner.levels if inner is not None else 0
        self.values: np.ndarray | None = None

    def outputs(self) -> Iterator[tuple[int, int]]:
        """The windows in which the result is written."""
        for start in range(0, self.node.elements, CHUNK):
            yield start, min(self.node.elements, start + CHUNK)

    def prepare(self) -> None:
        """Call the function."""
        if self.values is not None:
            return
        for inner in self.inner:
            if inner is not None:
                inner.prepare()
        reads = [self._reader(source, inner) for source, inner in zip(self.node.sources, self.inner, strict=True)]
        values = np.ascontiguousarray(self.node.make(reads), dtype=np.float32)
        assert values.size == self.node.elements, f"{self.node.name!r} was made with another size"
        self.values = values.reshape(-1)

    def _reader(self, source: Node, inner: Evaluator | None) -> Read:
        def read(start: int, stop: int) -> np.ndarray:
            out = np.empty(stop - start, dtype=np.float32)
            raw = out.view(np.uint8)
            if inner is None:
                assert isinstance(source, Stored)
                stored = np.empty((stop - start) * source.dtype.itemsize, dtype=np.uint8)
                source.checkpoint.read(source.info.name, start, stop, stored)
                status = kernels().convert(stored, source.dtype.code, stop - start, raw, F32.code)
                if status:
                    raise DataError(f"tensor {source.info.name!r} of model {source.model!r} holds NaN or infinity")
                return out
            low, high = start // inner.grain * inner.grain, min(source.elements, -(-stop // inner.grain) * inner.grain)
            if (low, high) == (start, stop):
                inner.compute(start, stop, raw, F32)
                return out
            wide = np.empty((high - low) * 4, dtype=np.uint8)
            inner.compute(low, high, wide, F32)
            return wide.view(np.float32)[start - low : stop - low]

        return read

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """Elements [start, stop) in `dtype`, as bytes at the start of `out`."""
        self.prepare()
        assert self.values is not None
        piece = self.values[start:stop].view(np.uint8)
        if kernels().convert(piece, F32.code, stop - start, out, dtype.code):
            raise DataError(f"{self.node.what} for {self.node.name!r} is not finite, or does not fit into {dtype}")
