"""Makes windows of a computed tensor: gives its function what it reads, and asks what it returns for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergery.dtypes import F32, DType
from mergery.engine.evaluator import Evaluator, evaluator
from mergery.errors import DataError
from mergery.graph.nodes import Computed, Fill, Read


class Computing(Evaluator[Computed]):
    """Evaluates a computed tensor: its function is called when the first window is wanted."""

    read: Read | None = None
    moved: tuple[DType, Fill] | None = None  # of one that only moves, in the dtype that was asked for last

    @property
    def reduces(self) -> bool:
        """See `Evaluator.reduces`: a function reads what it likes, and as often, unless it is streamed."""
        return not self.node.streamed or super().reduces

    def prepare(self) -> None:
        """Call the function. What is below is prepared when it reads of it."""
        if self.read is None and self.node.move is None:
            self.read = self.node.make([reading(inner) for inner in self.inner])

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """See `Evaluator.compute`."""
        if self.node.move is not None:
            if self.moved is None or self.moved[0] != dtype:
                self.moved = dtype, self.node.move([reading(inner, dtype) for inner in self.inner])
            self.moved[1](start, stop, out[: (stop - start) * dtype.itemsize].view(f"u{dtype.itemsize}"))
            return
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


def reading(inner: Evaluator[Any], moved: DType | None = None) -> Read:
    """A source as a computed tensor's function reads it: as float32, or as the bits of a dtype, until it reads again."""
    dtype = moved or F32
    room = np.empty(0, dtype=f"u{dtype.itemsize}" if moved else np.float32)

    def read(start: int, stop: int) -> np.ndarray:
        low, high = inner.whole_grains(start, stop)
        nonlocal room
        if moved is None or room.size < high - low:
            room = np.empty(high - low, dtype=room.dtype)
        values = room[: high - low]
        inner.compute(low, high, values.view(np.uint8), dtype)
        return values[start - low : stop - low]

    return read
