"""A matrix whose rows and columns only change places and signs: its elements are moved as bits, whatever their dtype."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from mergery.graph.nodes import Computed, Fill, Node, Read
from mergery.kernels import kernels
from mergery.views.transforms.operators import Operator

HELD = 128 << 20  # bytes of a source that is read once, whole, where its rows move; a larger one is read row by row


def moved(name: str, node: Node, rows: Operator | None, columns: Operator | None, what: str) -> Node:
    """A matrix [rows, columns], or a vector, with its axes changed by operators without matrices. Rounded, a number is what it
    would be had it been rounded first, so that dtypes need not be known.
    """
    if len(node.shape) == 1:
        moving = _Moving((1, node.shape[0]), None, rows)
    else:
        moving = _Moving((node.shape[0], node.shape[1]), rows, columns)
    held = min(node.elements * node.dtype.itemsize, HELD) if moving.order is not None else 0
    return Computed(
        name, node.shape, (node,), moving.made, what, held, streamed=True, dtype=node.dtype, move=moving.filled
    )


class _Moving:
    """Makes windows of the changed matrix, from whole rows of it.

    order:   int64: where each row comes from, or None where rows stay.
    columns: uint32: where each column comes from.
    """

    def __init__(self, shape: tuple[int, int], rows: Operator | None, columns: Operator | None) -> None:
        self.shape = shape
        self.order = rows.order if rows is not None and rows.moves else None
        self.columns = np.arange(shape[1], dtype=np.uint32) if columns is None else columns.order.astype(np.uint32)
        self.negative_rows = _negative(rows, shape[0])
        self.negative_columns = _negative(columns, shape[1])

    def made(self, reads: Sequence[Read]) -> Read:
        """See `Computed.make`: the bits of float32 are moved."""
        (read,) = reads
        fill = self.filled([lambda start, stop: read(start, stop).view(np.uint32)])

        def window(start: int, stop: int) -> np.ndarray:
            out = np.empty(stop - start, np.float32)
            fill(start, stop, out.view(np.uint32))
            return out

        return window

    def filled(self, reads: Sequence[Read]) -> Fill:
        """See `Computed.move`. Whole rows are written in place, and of one that a window cuts its part."""
        (read,) = reads
        width, permute = self.shape[1], kernels().permute
        source: list[np.ndarray] = []  # the whole of it, where rows move and it is held

        def rows(first: int, last: int, out: np.ndarray) -> None:
            stored, order = self.rows(read, first, last, source)
            flips = [_flips(each, out.dtype) for each in (self.negative_columns, self.negative_rows[first:last])]
            permute(stored, order, self.columns, *flips, out.reshape(-1, width))

        def cut(row: int, low: int, high: int, out: np.ndarray) -> None:
            whole = np.empty(width, out.dtype)
            rows(row, row + 1, whole)
            out[:] = whole[low:high]

        def window(start: int, stop: int, out: np.ndarray) -> None:
            first, last = -(-start // width), stop // width
            if first > last:  # within one row
                cut(last, start - last * width, stop - last * width, out)
                return
            head, tail = first * width - start, stop - last * width
            if head:
                cut(first - 1, width - head, width, out[:head])
            if last > first:
                rows(first, last, out[head : head + (last - first) * width])
            if tail:
                cut(last, 0, tail, out[len(out) - tail :])

        return window

    def rows(self, read: Read, first: int, last: int, source: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the source among which rows [first, last) of the changed matrix are, and where."""
        count, width = self.shape
        if self.order is None:
            return read(first * width, last * width).reshape(-1, width), np.arange(last - first)
        if not source:
            size = read(0, 1).itemsize
            if count * width * size <= HELD:
                source.append(read(0, count * width).reshape(count, width))
        if source:
            return source[0], np.ascontiguousarray(self.order[first:last])
        wanted = np.sort(self.order[first:last])  # read in the order of the file
        values = np.empty((len(wanted), width), read(0, 1).dtype)
        cuts = [0, *(np.flatnonzero(np.diff(wanted) != 1) + 1).tolist(), len(wanted)]
        for low, high in itertools.pairwise(cuts):
            at = int(wanted[low])
            values[low:high] = read(at * width, (at + high - low) * width).reshape(-1, width)
        return values, np.searchsorted(wanted, self.order[first:last])


def _negative(operator: Operator | None, size: int) -> np.ndarray:
    """Which coordinates change their sign: bool [size]."""
    return np.zeros(size, bool) if operator is None or operator.signs is None else operator.signs < 0


def _flips(negative: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The bit of the sign where one changes, of numbers of so many bits."""
    return negative.astype(dtype) << dtype.type(8 * dtype.itemsize - 1)
