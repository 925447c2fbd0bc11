"""Makes windows of a computed tensor: gives its function what it reads, and asks what it returns for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergery.dtypes import F32, DType
from mergery.engine.evaluator import Evaluator, evaluator
from mergery.errors import DataError
from mergery.graph.nodes import Computed, Read


class Computing(Evaluator[Computed]):
    """Evaluates a computed tensor: its function is called when the first window is wanted."""

    read: Read | None = None

    @property
    def reduces(self) -> bool:
        """See `Evaluator.reduces`: a function reads what it likes, and as often, unless it is streamed."""
        return not self.node.streamed or super().reduces

    def prepare(self) -> None:
        """Call the function. What is below is prepared when it reads of it."""
        if self.read is None:
            self.read = self.node.make(list(map(reading, self.inner)))

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """See `Evaluator.compute`."""
        self.prepare()
        assert self.read is not None
        piece = np.ascontiguousarray(self.read(start, stop), dtype=np.float32).reshape(-1).view(np.uint8)
        if self.workspace.kernels.convert(piece, F32.code, stop - start, out, dtype.code):
            raise DataError(
                f"{self.node.what} for {self.node.name!r} is not finite, or does not fit into {dtype}",
                hint="output: {dtype: float32}",
            )

    def held(self, size: int, dtype: DType) -> int:
        """See `Evaluator.held`: what the function holds is there from the first window on."""
        own = self.node.memory + size * (self.node.per_element + F32.itemsize)
        if self.node.streamed:
            return own + sum(inner.held(min(size, inner.node.elements), F32) for inner in self.inner)
        return own + sum(inner.nbytes(F32) for inner in self.inner)


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
