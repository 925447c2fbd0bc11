"""Windows of a node's inputs, read into a worker's buffers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from mergery.dtypes import F32, DType
from mergery.engine.evaluator import Evaluator
from mergery.engine.held import Held
from mergery.engine.workspace import TENSORS, Shared, Workspace
from mergery.errors import DataError
from mergery.graph.nodes import Merged, Stored
from mergery.graph.walking import is_computed
from mergery.kernels import BLOCK, LAST_ROW
from mergery.kernels.devices import CPU

RUN = 1 << 12  # elements that a sample reads at one place
SAMPLED_RUNS = 32  # places, at least
SAMPLED_SHARE = 64  # a sample is one part in so many, of tensors up to 64 Mi elements
SAMPLED_MOST = 256  # places: a million elements tell a rank to a few parts in ten thousand
SAMPLED_PIECES = 64  # of what is derived from a tensor, at most


def sampled_runs(n: int) -> int:
    """At how many places a tensor of n elements is sampled. There is an end to it, so that memory does not grow with n."""
    return min(SAMPLED_MOST, max(SAMPLED_RUNS, n // (SAMPLED_SHARE * RUN)))


class Reader:
    """Reads windows of a merged tensor's rows: its base, where it has one, its models, and statistics of their shape.

    `raw` is uint8 (rows, capacity); row j begins with the window's elements of input j in their stored dtype, whose codes are
    `codes`. `deltas` is 1 where the vectors of the merge are the models minus the base. `keeps` says that the first windows
    are kept, as the inputs are read more than once.
    """

    def __init__(
        self, node: Merged, inner: list[Evaluator[Any]], shared: Shared, workspace: Workspace, level: int
    ) -> None:
        self.node, self.inner, self.shared, self.workspace, self.level = node, inner, shared, workspace, level
        self.rows = node.aligned
        self.k, self.n = len(node.inputs), node.elements
        self.codes = np.array([node.dtype.code for node in self.rows], dtype=np.int64)
        self.itemsize = max(node.dtype.itemsize for node in self.rows)
        self.deltas = int(node.base is not None and node.method.span in ("deltas", "either"))
        self.scope = node.method.vectors(node.settings, len(node.shape))
        self.keeps = False
        self.raw = np.empty((0, 0), dtype=np.uint8)
        self._loaded: tuple[int, int] | None = None

    @property
    def columns(self) -> int:
        """Elements of a row; a vector is one row."""
        shape = self.node.shape
        return max(1, self.n if len(shape) < 2 else self.n // max(1, shape[0]))

    @property
    def whole(self) -> bool:
        """Whether the tensor cannot be made in pieces."""
        return self.node.method.unit == "tensor"

    @property
    def by_row(self) -> bool:
        """Whether pieces are whole rows."""
        return self.node.method.unit == "row" or self.scope != "tensor"

    @property
    def block(self) -> int:
        """Elements that are summed together first; where pieces are whole rows, those of a power of two of rows."""
        if not self.by_row:
            return BLOCK
        return self.columns << max(0, (BLOCK // self.columns).bit_length() - 1)

    @property
    def grain(self) -> int:
        """Elements that must stay together, here and below; windows are multiples of it."""
        own = self.n if self.whole else self.block
        if self.node.matrices is not None:
            each = self.node.matrices
            own = each.together * each.rows * each.columns
        grain = math.lcm(max(1, own), *(inner.grain for inner in self.inner))
        return min(grain, max(1, self.n))

    @cached_property
    def held_as(self) -> Any:
        """What its rows are known by among those that stay in memory from run to run; None where they do not."""
        held = self.shared.held
        return held.key(self.rows) if held is not None and self.workspace.device == CPU else None

    @property
    def chunk(self) -> int:
        """Elements of a window that is computed at once."""
        return self.workspace.device.window(self.shared.chunk, len(self.rows))

    def spans(self, start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
        """Ranges of about `size` elements, of whole grains."""
        grain = self.grain
        step = max(grain, size // grain * grain)
        for low in range(start, stop, step):
            yield low, min(stop, low + step)

    def windows(self) -> Iterator[tuple[int, int]]:
        """The tensor in windows for one of several passes.

        Stored inputs, but for the first windows, are read again for each pass, in windows that stay in the processor's
        cache: the system's page cache holds them better. Inputs that are merges would be made again, so windows are as large
        as a worker's share of memory for them.
        """
        staged = any(map(is_computed, self.rows))
        yield from self.spans(
            0, self.n, self.shared.stage // (self.itemsize * len(self.rows)) if staged else self.chunk
        )

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """A range in pieces that stay in the cache; matrices, in the numbers in which they are merged."""
        yield from self.spans(start, stop, self.grain if self.node.matrices is not None else self.chunk)

    def slices(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """A window in the slices that torch works on at once; a GPU takes the whole window."""
        size = min(TENSORS, self.chunk) if self.workspace.device == CPU else self.chunk
        yield from self.spans(start, stop, self.grain if self.node.matrices is not None else size)

    def load(self, start: int, stop: int) -> np.ndarray:
        """Read a window of every row, unless the buffers hold it. Returns `raw`."""
        if self._loaded != (start, stop):
            held = self.shared.held if self.held_as is not None else None
            raw = held.get((self.held_as, start, stop)) if held else None
            if raw is None and self.keeps:
                raw = self.workspace.kept(self.level, self).windows.get((start, stop))
            self.raw = self._read(start, stop, held) if raw is None else raw
            self._loaded = (start, stop)
        return self.raw

    def _read(self, start: int, stop: int, held: Held | None) -> np.ndarray:
        """Read a window, into the memory of those that stay from run to run, else of those that do from pass to pass."""
        size = len(self.rows), (stop - start) * self.itemsize
        room = held.place(*size) if held else None
        kept = self.workspace.kept(self.level, self) if self.keeps and room is None else None
        place = kept.place(*size) if kept else None
        raw = (
            room if room is not None else place if place is not None else self.workspace.rows(self.level, "raw", *size)
        )
        for row in range(len(self.rows)):
            self.inner[row].compute(start, stop, raw[row], self.rows[row].dtype)
        if held and room is not None:
            held.keep((self.held_as, start, stop), room)
        elif kept and place is not None:
            kept.windows[start, stop] = place
        return raw

    def sample(self) -> tuple[np.ndarray, int] | None:
        """Runs of elements spread evenly over the tensor, and how many elements they are; None for small tensors."""
        if self.n < 2 * SAMPLED_RUNS * RUN or (self.grain != BLOCK and any(map(is_computed, self.rows))):
            return None
        runs = sampled_runs(self.n)
        raw = self.workspace.rows(self.level, "sample", len(self.rows), runs * RUN * self.itemsize)
        for row, node in enumerate(self.rows):
            size = RUN * node.dtype.itemsize
            for run in range(runs):
                start = run * (self.n - RUN) // (runs - 1) // 2 * 2
                self.inner[row].compute(start, start + RUN, raw[row, run * size : (run + 1) * size], node.dtype)
        return raw, runs * RUN

    def sampled_pieces(self) -> list[tuple[int, int]]:
        """Small pieces spread evenly over the tensor, at most one of 16; none where there are few, or inputs are merges."""
        if any(map(is_computed, self.rows)):
            return []
        small = list(self.spans(0, self.n, SAMPLED_RUNS * RUN // 8))
        step = max(SAMPLED_RUNS // 2, len(small) // SAMPLED_PIECES)
        return small[::step] if len(small) >= SAMPLED_RUNS // 2 else []

    def matrices_of(self, place: int, start: int, stop: int) -> np.ndarray:
        """What stands beside the matrices of a window, such as Gram matrices: float32 (matrices, in, in).

        `place` is that of its node among all rows of the merged one.
        """
        each = self.node.matrices
        assert each is not None
        size = each.sides[1] ** 2
        first, count = start // (each.rows * each.columns), (stop - start) // (each.rows * each.columns)
        values = np.empty(count * size, dtype=np.float32)
        self.inner[place].compute(first * size, (first + count) * size, values.view(np.uint8), F32)
        if not np.isfinite(values).all():
            self.check(1 << min(place, LAST_ROW), F32)
        return values.reshape(count, each.sides[1], each.sides[1])

    def floats(self, row: int) -> np.ndarray:
        """A whole small tensor of one row: float32 (n,)."""
        raw = self.load(0, self.n)
        values = np.empty(self.n, dtype=np.float32)
        status = self.workspace.kernels.convert(
            raw[row], self.rows[row].dtype.code, self.n, values.view(np.uint8), F32.code
        )
        self.check(int(status != 0) << min(row, LAST_ROW), F32)
        return values

    def check(self, status: int, dtype: DType) -> None:
        """Turn a kernel's status into an error that names tensor and models."""
        check(self.node, status, dtype)


def check(node: Merged, status: int, dtype: DType) -> None:
    """Turn a status, a bit for each row that is not finite or a higher one for the result, into an error that names tensor and
    models.
    """
    if not status:
        return
    if status >> LAST_ROW & 1 and len(node.aligned) > LAST_ROW + 1:
        raise DataError(
            f"tensor {node.name!r} of one of the models {', '.join(node.models[LAST_ROW - 1 :])} holds NaN or infinity",
            hint="merge fewer of them to find out which",
        )
    for row, own in enumerate(node.rows[: LAST_ROW + 1]):
        if status >> row & 1:
            if isinstance(own, Stored):
                raise DataError(
                    f"tensor {own.info.name!r} of model {own.model!r} holds NaN or infinity",
                    hint="that checkpoint is damaged; use another one",
                )
            raise DataError(
                f"a stage made NaN or infinity of tensor {node.name!r}",
                hint="smaller weights, or a smaller scale",
            )
    raise DataError(
        f"merging tensor {node.name!r} of {', '.join(node.models)} gives NaN or infinity in {dtype}",
        why="the inputs are finite, so the settings or the output's range are at fault",
        hint="lower weight or scale" + (", or write bfloat16 or float32" if dtype.name == "F16" else ""),
    )
