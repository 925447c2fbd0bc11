"""Two models' tensors piece by piece, those of one layer at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mergery.architecture.spaces import Axis, Piece, Spaces
from mergery.engine import Shared, Workspace, evaluator
from mergery.engine.computing import reading
from mergery.errors import DataError, PlanError, listed
from mergery.graph.fused import take_part
from mergery.graph.view import View
from mergery.planning.coordinates import spaces_of
from mergery.views.transforms import Transform
from mergery.views.transforms.mixing import Mixing
from mergery.views.transforms.operators import Operator


@dataclass
class Pair:
    """A piece of both models, float32 as stored: `one` is the reference's, `other` the model's."""

    piece: Piece
    one: np.ndarray
    other: np.ndarray

    def along(self, space: str) -> int | None:
        """Which axis is in a space."""
        return next((place for place, axis in enumerate(self.piece.axes) if axis and axis.space == space), None)


class Models:
    """The reference and the model that is aligned to it, under the model's names. Raises PlanError where they do not match."""

    def __init__(self, reference: View, model: View) -> None:
        self.reference, self.model = reference, model
        self.spaces: Spaces = spaces_of(model)
        other = spaces_of(reference)
        what = f"{reference.name!r} and {model.name!r} cannot be aligned"
        hint = "merge models of one shape, or transport what one knows into the other"
        depths = len(other.attention), len(self.spaces.attention)
        if depths[0] != depths[1]:
            why = f"{reference.name!r} has {depths[0]} layers with attention, and {model.name!r} {depths[1]}"
            raise PlanError(what, why=why, hint=hint)
        lacking = sorted(set(model.nodes) ^ set(reference.nodes))
        if lacking:
            raise PlanError(
                what, why=f"only one of them has {listed(lacking)}", hint="align models of one architecture"
            )
        sizes = {name: space.size for name, space in other.sizes.items()}
        unlike = [
            f"{name} has {space.size} in {model.name} and {sizes.get(name)} in {reference.name}"
            for name, space in self.spaces.sizes.items()
            if name != "vocabulary" and sizes.get(name) != space.size
        ]
        if unlike:
            wider = "models of other widths are aligned by transport: mergery transport"
            raise PlanError(what, why=listed(unlike), hint=wider)
        if other.attention != self.spaces.attention or other.norm != self.spaces.norm:
            raise PlanError(what, why="their heads or norms are of other kinds", hint=hint)

    @property
    def layers(self) -> list[int]:
        """The numbers of the layers, in their order."""
        return sorted({piece.layer for piece in self.spaces.pieces if piece.layer is not None})

    @property
    def nbytes(self) -> int:
        """Of the pieces of both, in float32: what one visit to all of them reads."""
        return 8 * sum(node.elements for node in self.model.nodes.values())

    def of_layer(self, layer: int | None) -> list[Pair]:
        """The pieces of a layer, or of what stands outside all; those of another shape, as rows of tokens may be, left out."""
        return list(self._read(piece for piece in self.spaces.pieces if piece.layer == layer))

    def _read(self, pieces: Iterable[Piece]) -> Iterator[Pair]:
        for piece in pieces:
            if any(piece.axes) and self.model.nodes[piece.tensor].shape == self.reference.nodes[piece.tensor].shape:
                one, other = (values_of(piece, view) for view in (self.reference, self.model))
                yield Pair(piece, one, other)


def values_of(piece: Piece, view: View) -> np.ndarray:
    """A piece's numbers in a model, float32 of its shape. Raises DataError where one is NaN or infinity."""
    node = view.nodes[piece.tensor]
    if piece.part is not None:
        node = take_part(f"{piece.tensor} [{piece.part.key}]", node, piece.part)
    made = evaluator(node, Shared(), Workspace())
    made.prepare()
    values = reading(made)(0, node.elements).reshape(node.shape)
    if not np.isfinite(values).all():
        what = f"tensor {piece.tensor!r} of model {view.name!r} holds NaN or infinity"
        raise DataError(what, hint="that checkpoint is damaged; use another one")
    return values


def changed(values: np.ndarray, axes: Sequence[Axis | None], transform: Transform, spaces: Spaces) -> np.ndarray:
    """A piece's numbers in other coordinates."""
    operators: list[Operator | Mixing | None] = [transform.operator(axis, spaces) for axis in axes]
    matrix = values if values.ndim == 2 else values[:, None]
    if operators[0] is not None:
        matrix = operators[0].rows(matrix)
    if len(operators) == 2 and operators[1] is not None:
        matrix = operators[1].columns(matrix)
    return matrix if values.ndim == 2 else matrix[:, 0]


def in_places(pairs: Sequence[Pair], transform: Transform) -> list[Pair]:
    """Pairs in which each expert of the reference stands beside the model's that comes to its place."""
    experts: dict[tuple[int | None, str], list[Pair]] = {}
    found: list[Pair] = []
    for pair in pairs:
        if pair.piece.expert.isdecimal():
            experts.setdefault((pair.piece.layer, pair.piece.expert), []).append(pair)
    turn: dict[tuple[int | None, str], int] = {}
    for pair in pairs:
        layer, number = pair.piece.layer, pair.piece.expert
        comes = transform.expert(layer, number)
        place = turn[layer, number] = turn.get((layer, number), -1) + 1
        found.append(pair if comes == number else replace(pair, other=experts[layer, comes][place].other))
    return found


def unfolded(values: np.ndarray, axis: int) -> np.ndarray:
    """The axis first, all else behind it: [n, rest]."""
    return values.reshape(len(values), -1) if axis == 0 else np.ascontiguousarray(values.T)
