"""Makes a computed tensor: gives its function what it reads, and keeps what it returns."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergery.dtypes import F32, DType
from mergery.engine.evaluator import Evaluator, evaluator
from mergery.errors import DataError
from mergery.graph.nodes import Computed, Read


class Computing(Evaluator[Computed]):
    """Evaluates a computed tensor, whole, when it is first wanted."""

    values: np.ndarray | None = None

    @property
    def reduces(self) -> bool:
        """See `Evaluator.reduces`: a function reads what it likes, and as often."""
        return True

    def prepare(self) -> None:
        """Call the function."""
        if self.values is not None:
            return
        super().prepare()
        values = np.ascontiguousarray(self.node.make(list(map(reading, self.inner))), dtype=np.float32)
        assert values.size == self.node.elements, f"{self.node.name!r} was made with another size"
        self.values = values.reshape(-1)

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """See `Evaluator.compute`."""
        self.prepare()
        assert self.values is not None
        piece = self.values[start:stop].view(np.uint8)
        if self.workspace.kernels.convert(piece, F32.code, stop - start, out, dtype.code):
            raise DataError(f"{self.node.what} for {self.node.name!r} is not finite, or does not fit into {dtype}")

    def held(self, size: int, dtype: DType) -> int:
        """See `Evaluator.held`: all values, and what the function holds, are there from the first window on."""
        below = sum(inner.nbytes(F32) for inner in self.inner)
        return self.node.elements * F32.itemsize + self.node.memory + below


evaluator.register(Computed, Computing)


def reading(inner: Evaluator[Any]) -> Read:
    """A source as a computed tensor's function reads it."""

    def read(start: int, stop: int) -> np.ndarray:
        grain = inner.grain
        low, high = start // grain * grain, min(inner.node.elements, -(-stop // grain) * grain)
        values = np.empty(high - low, dtype=np.float32)
        inner.compute(low, high, values.view(np.uint8), F32)
        return values[start - low : stop - low]

    return read
