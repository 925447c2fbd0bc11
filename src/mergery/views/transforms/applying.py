"""A model in other coordinates, as a view: tensors whose axes are ordered, signed and multiplied as they are read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mergery.architecture.spaces import Piece, Spaces
from mergery.dtypes import F32
from mergery.graph.equality import same_tensor
from mergery.graph.fused import from_parts, take_part
from mergery.graph.gathering import from_rows
from mergery.graph.nodes import Computed, Node, Read
from mergery.graph.view import View
from mergery.views.transforms.mixing import Mixing, mixed
from mergery.views.transforms.moving import moved
from mergery.views.transforms.operators import Operator
from mergery.views.transforms.transform import Transform

TILE = 64  # rows that are changed at once: fixed, so that no number depends on the window in which it is read
WORDS = "a model's tensor in other coordinates"

_EXPERT = re.compile(r"(\.experts\.)\d+(?=\.)")


def transformed(view: View, transform: Transform, spaces: Spaces) -> View:
    """The model in other coordinates. The transform is legal for these spaces, which are the view's: see `why_illegal`."""
    if transform.is_identity:
        return view
    pieces: dict[str, list[Piece]] = {}
    for piece in spaces.pieces:
        pieces.setdefault(piece.tensor, []).append(piece)
    nodes: dict[str, Node] = {}
    made: list[tuple[Node, Node]] = []
    for name, node in view.nodes.items():
        own = pieces.get(name)
        nodes[name] = _tensor(name, view, own, transform, spaces) if own else node
        for before, after in made:  # a head that is stored beside the embeddings that it is tied to
            if before.shape == node.shape and same_tensor(before, node):
                nodes[name] = after
        if own and own[0].role in ("embed", "head") and len(node.shape) == 2:
            made.append((node, nodes[name]))
    return replace(view, nodes=nodes)


def _tensor(name: str, view: View, pieces: Sequence[Piece], transform: Transform, spaces: Spaces) -> Node:
    """One tensor, part by part where it is fused. A piece of an expert is made of the expert's that comes to its place."""
    node = view.nodes[name]
    if pieces[0].part is None:
        (piece,) = pieces
        expert = transform.expert(piece.layer, piece.expert)
        source = view.nodes[_EXPERT.sub(rf"\g<1>{expert}", name) if expert != piece.expert else name]
        return changed(name, source, *_operators(piece, transform, spaces))
    changes = [_operators(piece, transform, spaces) for piece in pieces]
    experts = [transform.expert(piece.layer, piece.expert) for piece in pieces]
    still = [expert == piece.expert for expert, piece in zip(experts, pieces, strict=True)]
    if all(still) and all(operator is None for both in changes for operator in both):
        return node
    parts = [piece.part for piece in pieces if piece.part is not None]
    by_key = {part.key: part for part in parts}
    made: list[Node] = []
    for part, expert, same, both in zip(parts, experts, still, changes, strict=True):
        source = part if same else by_key[re.sub(r"\d+", expert, part.key, count=1)]
        own = f"{name} [{part.key}]"
        made.append(changed(own, take_part(own, node, source), *both))
    return from_parts(name, node.shape, parts, made)


def _operators(
    piece: Piece, transform: Transform, spaces: Spaces
) -> tuple[Operator | Mixing | None, Operator | Mixing | None]:
    """What is done to rows and to columns as they are stored."""
    rows, *columns = (transform.operator(axis, spaces) for axis in piece.axes)
    return rows, columns[0] if columns else None


def changed(name: str, node: Node, rows: Operator | Mixing | None, columns: Operator | Mixing | None) -> Node:
    """A vector or matrix with its axes changed. Rows that only change places keep their bits."""
    if rows is None and columns is None:
        return node
    if isinstance(rows, Mixing) or isinstance(columns, Mixing):
        return mixed(name, node, rows, columns)
    width = node.shape[1] if len(node.shape) == 2 else 1
    if columns is None and rows is not None and rows.plain:
        return from_rows(name, node.shape, (node,), np.zeros(len(rows.order), np.int64), rows.order, width)
    if not _mixes(rows) and not _mixes(columns):
        return moved(name, node, rows, columns, WORDS)
    height = node.shape[0] if width == 1 else rows.block if rows is not None and rows.block > 1 else TILE
    making = _Making(node.shape[0], width, min(height, node.shape[0]), rows, columns)
    memory = making.height * width * (F32.itemsize + 16)
    return Computed(name, node.shape, (node,), making.made, WORDS, memory, streamed=True, dtype=node.dtype)


def _mixes(operator: Operator | None) -> bool:
    return operator is not None and operator.matrices is not None


class _Making:
    """Makes tiles of so many whole rows, one after the other, and windows of them."""

    def __init__(self, count: int, width: int, height: int, rows: Operator | None, columns: Operator | None) -> None:
        self.count, self.width, self.height, self.rows, self.columns = count, width, height, rows, columns

    def made(self, reads: Sequence[Read]) -> Read:
        """See `Computed.make`. The last tile is kept, for the window that goes on in it."""
        (read,) = reads
        kept: list[tuple[int, np.ndarray]] = []

        def window(start: int, stop: int) -> np.ndarray:
            out = np.empty(stop - start, np.float32)
            size = self.height * self.width
            for number in range(start // size, -(-stop // size)):
                if not kept or kept[0][0] != number:
                    kept[:] = [(number, self.tile(read, number).reshape(-1))]
                first = number * size
                low, high = max(start, first), min(stop, first + len(kept[0][1]))
                out[low - start : high - start] = kept[0][1][low - first : high - first]
            return out

        return window

    def tile(self, read: Read, number: int) -> np.ndarray:
        """Rows [number x height, ...) of the changed tensor, float32."""
        first = number * self.height
        last = min(self.count, first + self.height)
        if self.rows is None or not self.rows.moves:
            values = read(first * self.width, last * self.width).reshape(-1, self.width)
        elif self.height == self.count:
            values = read(0, self.count * self.width).reshape(-1, self.width)[self.rows.order]
        else:
            values = self.ordered(read, self.rows.order[first:last])
        if self.rows is not None:
            values = self.rows.finished(values, first)
        return np.ascontiguousarray(values if self.columns is None else self.columns.columns(values))

    def ordered(self, read: Read, rows: np.ndarray) -> np.ndarray:
        """Some rows of the source, those that follow one another read at once."""
        values = np.empty((len(rows), self.width), np.float32)
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        for low, high in itertools.pairwise(cuts):
            first = int(rows[low])
            values[low:high] = read(first * self.width, (first + high - low) * self.width).reshape(-1, self.width)
        return values
