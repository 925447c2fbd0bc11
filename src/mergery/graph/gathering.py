"""Tensors of others' elements: of their rows, or of any ranges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from mergery.dtypes import F32, DType
from mergery.graph.nodes import Gathered, Node


def from_rows(
    name: str, shape: tuple[int, ...], sources: Sequence[Node], which: np.ndarray, rows: np.ndarray, width: int
) -> Node:
    """A tensor of rows of others, `width` elements each: row i is `rows[i]` of `sources[which[i]]`; -1 is zeros.

    Sources that give no row are left out. One whole source of the same shape is returned as it is.
    """
    which = np.asarray(which, dtype=np.int64)
    rows = np.where(which < 0, 0, np.asarray(rows, dtype=np.int64))
    follows = (which[1:] == which[:-1]) & ((which[1:] < 0) | (rows[1:] == rows[:-1] + 1))
    first = np.flatnonzero(np.concatenate(([True], ~follows)))
    lengths = np.diff(np.append(first, len(which)))
    used = sorted({int(number) for number in np.unique(which) if number >= 0})
    places = np.full(len(sources) + 1, -1, dtype=np.int64)
    places[used] = np.arange(len(used))
    kept = tuple(sources[number] for number in used)
    if len(first) == 1 and len(kept) == 1 and rows[0] == 0 and kept[0].shape == shape:
        return kept[0]
    return Gathered(name, shape, dtype_of(kept), kept, places[which[first]], rows[first] * width, lengths * width)


def from_ranges(name: str, shape: tuple[int, ...], ranges: Iterable[tuple[Node | None, int, int]]) -> Node:
    """A tensor of ranges of others: (source, first element, number of elements) each; None is zeros.

    Ranges that go on where the last one ended are joined. One whole source of the same shape is returned as it is.
    """
    sources: dict[int, tuple[int, Node]] = {}
    joined: list[list[int]] = []
    for source, start, length in ranges:
        number = -1
        if source is not None:
            number, _ = sources.setdefault(id(source), (len(sources), source))
        last = joined[-1] if joined else None
        if last and last[0] == number and (number < 0 or last[1] + last[2] == start):
            last[2] += length
        else:
            joined.append([number, start if number >= 0 else 0, length])
    nodes = tuple(source for _, source in sources.values())
    if len(joined) == 1 and len(nodes) == 1 and nodes[0].shape == shape and joined[0][1:] == [0, nodes[0].elements]:
        return nodes[0]
    which, starts, lengths = np.array(joined, dtype=np.int64).reshape(-1, 3).T
    return Gathered(name, shape, dtype_of(nodes), nodes, which, starts, lengths)


def zeros(name: str, shape: tuple[int, ...], dtype: DType) -> Node:
    """A tensor of zeros."""
    which, starts, lengths = np.array([[-1], [0], [math.prod(shape)]], dtype=np.int64)
    return Gathered(name, shape, dtype, (), which, starts, lengths)


def dtype_of(nodes: Iterable[Node]) -> DType:
    """That of a tensor of others' elements: the one that all have, else float32."""
    dtypes = {node.dtype for node in nodes}
    return dtypes.pop() if len(dtypes) == 1 else F32
