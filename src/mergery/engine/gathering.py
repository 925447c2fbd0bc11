"""Makes windows of a gathered tensor: ranges of others, end to end."""

from __future__ import annotations

from typing import Any

import numpy as np

from mergery.dtypes import DType
from mergery.engine.evaluator import Evaluator, evaluator
from mergery.engine.workspace import Shared, Workspace
from mergery.graph.nodes import Gathered


class Gathering(Evaluator[Gathered]):
    """Evaluates a gathered tensor. Of a source that is made in grains, the last window is kept: ranges mostly follow each
    other.
    """

    def __init__(self, node: Gathered, shared: Shared, workspace: Workspace, level: int = 0) -> None:
        super().__init__(node, shared, workspace, level)
        self.ends = np.cumsum(node.lengths)
        self.grains = [inner.grain for inner in self.inner]
        self.kept: dict[int, tuple[int, int, DType]] = {}  # by source, the window that its buffer holds

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """See `Evaluator.compute`."""
        size = dtype.itemsize
        at = int(np.searchsorted(self.ends, start, side="right"))
        done = start
        while done < stop:
            end = min(stop, int(self.ends[at]))
            source = int(self.node.which[at])
            into = out[(done - start) * size : (end - start) * size]
            first = int(self.node.starts[at]) + done - int(self.ends[at] - self.node.lengths[at])
            if source < 0:
                into[:] = 0
            elif self.grains[source] == 1:
                self.inner[source].compute(first, first + end - done, into, dtype)
            else:
                self._cut(source, self.inner[source], first, first + end - done, into, dtype)
            done, at = end, at + 1

    def _cut(self, source: int, inner: Evaluator[Any], start: int, stop: int, into: np.ndarray, dtype: DType) -> None:
        """A range of a source from the window of whole grains around it."""
        size = dtype.itemsize
        have = self.kept.get(source)
        inside = have is not None and have[0] <= start <= stop <= have[1] and have[2] == dtype
        low, high = have[:2] if have is not None and inside else inner.whole_grains(start, stop)
        buffer = self.workspace.row(self.level, f"source {source}", (high - low) * size)
        if not inside:
            inner.compute(low, high, buffer, dtype)
            self.kept[source] = low, high, dtype
        into[:] = buffer[(start - low) * size : (stop - low) * size]

    def held(self, size: int, dtype: DType) -> int:
        """See `Evaluator.held`."""
        reach, total = min(size, int(self.node.lengths.max(initial=0))), 0
        for inner, grain in zip(self.inner, self.grains, strict=True):
            window = min(inner.node.elements, (-(-reach // grain) + 1) * grain if grain > 1 else reach)
            total += inner.held(window, dtype) + (window * dtype.itemsize if grain > 1 else 0)
        return total


evaluator.register(Gathered, Gathering)
