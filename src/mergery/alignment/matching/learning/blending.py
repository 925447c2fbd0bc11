"""The model on the way between a reference and a model in new coordinates, and its gradient piece by piece."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mergery.alignment.matching.pairs import Models, Pair, changed, in_places, values_of
from mergery.architecture.spaces import Piece, Spaces
from mergery.errors import PlanError, listed
from mergery.views.transforms import Transform


class Held(Models):
    """Two models whose pieces are in memory, all of them; those that belong to no space as well, under no layer."""

    def __init__(self, spaces: Spaces, pairs: Sequence[Pair]) -> None:
        self.spaces, self.pairs = spaces, list(pairs)

    @classmethod
    def of(cls, models: Models) -> Held:
        """Read two models. Raises PlanError where a tensor has other shapes in them: between them is no model."""
        nodes, others = models.model.nodes, models.reference.nodes
        unlike = [name for name, node in nodes.items() if node.shape != others[name].shape]
        if unlike:
            what = f"between {models.reference.name!r} and {models.model.name!r} is no model to learn by"
            hint = "vocabulary: union merges other vocabularies; --method weights needs none"
            raise PlanError(what, why=f"{listed(unlike)} have other shapes in them", hint=hint)
        pairs = [pair for layer in (None, *models.layers) for pair in models.of_layer(layer)]
        moved = {pair.piece.tensor for pair in pairs}
        for name, node in nodes.items():
            if name not in moved and node.dtype.floating:
                piece = Piece(name, None, "", None, "", (None,) * len(node.shape))
                pairs.append(Pair(piece, values_of(piece, models.reference), values_of(piece, models.model)))
        return cls(models.spaces, pairs)

    @property
    def nbytes(self) -> int:
        """Of both, in float32."""
        return sum(pair.one.nbytes + pair.other.nbytes for pair in self.pairs)

    def of_layer(self, layer: int | None) -> list[Pair]:
        """See `Models.of_layer`."""
        return [pair for pair in self.pairs if pair.piece.layer == layer and any(pair.piece.axes)]

    def between(self, transform: Transform, way: float) -> dict[str, np.ndarray]:
        """The weights `way` of the way from the reference to the model: float32, of each tensor."""
        found: dict[str, np.ndarray] = {}
        sizes = self.sizes
        for pair in in_places(self.pairs, transform):
            other = changed(pair.other, pair.piece.axes, transform, self.spaces)
            made = (1.0 - way) * pair.one + way * other
            if pair.piece.part is None:
                found[pair.piece.tensor] = made
                continue
            flat = found.setdefault(pair.piece.tensor, np.empty(sizes[pair.piece.tensor], np.float32))
            at, values = 0, made.reshape(-1)
            for start, length in _runs(pair.piece):
                flat[start : start + length] = values[at : at + length]
                at += length
        return found

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of each tensor."""
        found: dict[str, int] = {}
        for pair in self.pairs:
            found[pair.piece.tensor] = found.get(pair.piece.tensor, 0) + pair.one.size
        return found

    def slopes(self, gradient: Mapping[str, np.ndarray], transform: Transform, way: float) -> list[Pair]:
        """For each piece the gradient with respect to the model's, once it is in its new coordinates: it stands in the place of
        the reference's, and beside it the piece of the expert that comes there.
        """
        found = []
        for pair in in_places(self.pairs, transform):
            flat = gradient[pair.piece.tensor].reshape(-1)
            if pair.piece.part is not None:
                flat = np.concatenate([flat[start : start + length] for start, length in _runs(pair.piece)])
            found.append(replace(pair, one=way * flat.reshape(pair.one.shape)))
        return found


def _runs(piece: Piece) -> Iterator[tuple[int, int]]:
    assert piece.part is not None
    starts, lengths = piece.part.runs()
    return zip(starts.tolist(), lengths.tolist(), strict=True)
