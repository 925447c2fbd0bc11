"""Reads a stored tensor, and converts it where another dtype is wanted."""

from __future__ import annotations

import numpy as np

from mergery.dtypes import DType
from mergery.engine.evaluator import Evaluator, evaluator
from mergery.errors import DataError
from mergery.graph.nodes import Stored


class Copying(Evaluator[Stored]):
    """Evaluates a stored tensor. What is not converted is copied as it is, NaN and infinity included."""

    levels = 0  # its buffer is used within one call, and so by all that share a level

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """See `Evaluator.compute`. Raises DataError for what is not finite, or does not fit, where it is converted."""
        node, size = self.node, stop - start
        nbytes = size * node.dtype.itemsize
        if dtype == node.dtype:
            node.checkpoint.read(node.info.name, start, stop, out[:nbytes])
            return
        stored = self.workspace.row(self.level, "stored", nbytes)
        node.checkpoint.read(node.info.name, start, stop, stored)
        status = self.workspace.kernels.convert(stored, node.dtype.code, size, out, dtype.code)
        if status:
            fault = "holds NaN or infinity" if status & 1 else f"does not fit into {dtype}"
            hint = "that checkpoint is damaged; use another one" if status & 1 else "output: {dtype: float32}"
            raise DataError(f"tensor {node.info.name!r} of model {node.model!r} {fault}", hint=hint)

    def held(self, size: int, dtype: DType) -> int:
        """See `Evaluator.held`."""
        return 0 if dtype == self.node.dtype else size * self.node.dtype.itemsize


evaluator.register(Stored, Copying)
