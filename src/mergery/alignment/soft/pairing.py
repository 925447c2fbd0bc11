"""Two models of one architecture and depth whose widths may differ, piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.alignment.matching.pairs import Models, Pair, values_of
from mergery.architecture.spaces import RESIDUAL, VOCABULARY, Spaces
from mergery.errors import PlanError, listed
from mergery.graph.view import View
from mergery.planning.coordinates import spaces_of

SIZES = (
    "hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "intermediate_size", "n_inner", "ffn_dim",
    "num_attention_heads", "n_head", "num_key_value_heads", "head_dim",
)  # fmt: skip
"""Keys of a config that say how wide a model is."""


class SoftModels(Models):
    """The reference and the model that is mapped to it, under the model's names. `other` are the reference's spaces.

    Raises PlanError where no map is known between them.
    """

    def __init__(self, reference: View, model: View) -> None:
        self.reference, self.model = reference, model
        self.spaces: Spaces = spaces_of(model)
        self.other: Spaces = spaces_of(reference)
        if reason := self._unlike():
            hint = "models of one family and depth; mergery transport moves what one knows into any other"
            raise PlanError(
                f"{reference.name!r} and {model.name!r} have no soft map between them", why=reason, hint=hint
            )

    def _unlike(self) -> str:
        one, other = self.other, self.spaces
        if one.norm != other.norm or one.attention.keys() != other.attention.keys():
            return "their heads or norms are of other kinds"
        lacking = sorted(set(self.model.nodes) ^ set(self.reference.nodes))
        if lacking:
            return f"only one of them has {listed(lacking)}"
        if any(name.endswith(".experts") for name in (*one.sizes, *other.sizes)):
            return "experts are chosen, not mixed: tokens go to others in each model"
        for layer, heads in other.attention.items():
            if heads.size != one.attention[layer].size:
                sizes = f"{one.attention[layer].size} and {heads.size}"
                return f"their heads have {sizes} coordinates, which positions turn at other rates"
        for mine, theirs in zip(one.pieces, other.pieces, strict=True):
            if (mine.tensor, mine.axes) != (theirs.tensor, theirs.axes):
                return f"{theirs.tensor!r} has other axes in each"
            if theirs.part is not None and mine.part != theirs.part:
                return f"{theirs.tensor!r} is fused of parts, whose sizes differ"
        if RESIDUAL in other.sizes and self.resized(RESIDUAL):
            if pooling := self._pooling():
                return f"what {pooling!r} writes is as wide as the stream, and no space that is matched"
            tied = not any(piece.role == "head" for piece in other.pieces)
            why = "a head is tied to embeddings: one sums over channels that the other averages, where their number changes"
            return other.fixed or (why if tied else "")
        return ""

    def _pooling(self) -> str:
        """A matrix that writes what is no space and as wide as the residual stream of each model, such as a pooler's."""
        widths = self.spaces.sizes[RESIDUAL].size, self.other.sizes[RESIDUAL].size
        for piece in self.spaces.pieces:
            shapes = self.model.nodes[piece.tensor].shape, self.reference.nodes[piece.tensor].shape
            if (
                piece.role != "embed"
                and len(piece.axes) == 2
                and any(
                    axis is None and tuple(sizes) == widths for axis, *sizes in zip(piece.axes, *shapes, strict=True)
                )
            ):
                return piece.tensor
        return ""

    def resized(self, space: str) -> bool:
        """Whether a space has another size in each."""
        return self.spaces.sizes[space].size != self.other.sizes[space].size

    @property
    def wider(self) -> list[str]:
        """The spaces of other sizes, but for the rows of tokens."""
        return [name for name in self.spaces.sizes if name != VOCABULARY and self.resized(name)]

    @property
    def shape(self) -> Mapping[str, Any]:
        """What the model's config has to say of its sizes to have the reference's: None for a key that it then lacks."""
        mine, theirs = self.model.config.language, self.reference.config.language
        return {key: theirs.get(key) for key in SIZES if mine.get(key) != theirs.get(key)} if self.wider else {}

    def of_layer(self, layer: int | None) -> list[Pair]:
        """The pieces of a layer, or of what stands outside all, whatever their shapes."""
        pieces = zip(self.other.pieces, self.spaces.pieces, strict=True)
        return [
            Pair(theirs, values_of(mine, self.reference), values_of(theirs, self.model))
            for mine, theirs in pieces
            if theirs.layer == layer and any(theirs.axes)
        ]  # fmt: skip
