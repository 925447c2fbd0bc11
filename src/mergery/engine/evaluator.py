"""What makes a node, window by window: one class for each kind of node, chosen by `evaluator`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import singledispatch
from typing import Any, Generic, TypeVar

import numpy as np

from mergery.dtypes import DType
from mergery.engine.workspace import Shared, Workspace, windows
from mergery.graph.nodes import Node

AnyNode = TypeVar("AnyNode", bound=Node)


class Evaluator(ABC, Generic[AnyNode]):
    """Makes one node in the buffers of a workspace, from `level` on: first `prepare`, then any windows of whole grains.

    inner:  the evaluators of its sources, on deeper levels.
    levels: how many levels of the workspace it takes up, with those of `inner`.
    """

    levels = 1

    def __init__(self, node: AnyNode, shared: Shared, workspace: Workspace, level: int = 0) -> None:
        self.node, self.shared, self.workspace, self.level = node, shared, workspace, level
        self.inner: list[Evaluator[Any]] = []
        for row in self.sources:
            inner = evaluator(row, shared, workspace, level + self.levels)
            self.inner.append(inner)
            self.levels += inner.levels

    @property
    def sources(self) -> tuple[Node, ...]:
        """The nodes that it reads."""
        return self.node.rows

    @property
    def grain(self) -> int:
        """Elements that must stay together: windows are multiples of it, but for the last."""
        return 1

    def whole_grains(self, start: int, stop: int) -> tuple[int, int]:
        """The least window of whole grains around elements [start, stop)."""
        grain = self.grain
        return start // grain * grain, min(self.node.elements, -(-stop // grain) * grain)

    @property
    def reduces(self) -> bool:
        """Whether inputs are read more than once."""
        return any(inner.reduces for inner in self.inner)

    def outputs(self) -> Iterator[tuple[int, int]]:
        """The windows in which the whole result is best made."""
        return windows(self.node.elements, self.shared.chunk)

    def prepare(self) -> None:
        """Do what must be done before the first window: reductions, here and below."""
        for inner in self.inner:
            inner.prepare()

    @abstractmethod
    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """Elements [start, stop), rounded once to `dtype`, as bytes at the start of `out`."""

    @abstractmethod
    def held(self, size: int, dtype: DType) -> int:
        """Bytes that it holds, here and below, beside the window of `size` elements that it writes."""

    def nbytes(self, dtype: DType) -> int:
        """Bytes that a worker needs to make the node in `dtype`."""
        start, stop = next(self.outputs(), (0, 0))
        return self.held(stop - start, dtype) + (stop - start) * dtype.itemsize


@singledispatch
def evaluator(node: Node, shared: Shared, workspace: Workspace, level: int = 0) -> Evaluator[Any]:
    """What makes a node in the buffers of a workspace from `level` on."""
    raise TypeError(f"nothing makes a {type(node).__name__}")
