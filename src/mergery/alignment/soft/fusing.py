"""OTFusion: maps of one model's units to another's by optimal transport, space after space (arXiv 1910.05653, 2310.05719).

Units are compared by the weights that write them, once what these read is in the reference's coordinates, or by what they say
on data. All layers of a decoder read and write one residual stream, so it has one plan. Where layers have the same heads in
both, heads are matched exactly, with the matrices that positions do not see (`qk`) and those of values (`vo`); else, or where
neither matrix is asked for, a layer's heads have one soft plan, which queries and keys follow head by head. A plan that is an
order of units is kept as one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mergery.alignment.matching.activations import Moments, match_mixed
from mergery.alignment.matching.heads import match_heads, sides, with_gauges
from mergery.alignment.matching.pairs import Pair, changed, unfolded
from mergery.alignment.soft.pairing import SoftModels
from mergery.alignment.soft.plans import Distances, map_of
from mergery.architecture.spaces import RESIDUAL, Attention
from mergery.errors import PlanError, listed
from mergery.recipe.soft import JOINS
from mergery.run.events import Notify, Tally, ignore
from mergery.views.transforms import Heads, SoftMap, Transform, Units

WORDS = ("queries", "keys", "values", "mixed")


@dataclass
class Fusing:
    """A search for soft maps. Without `moments`, by weights."""

    models: SoftModels
    epsilon: float
    wanted: Collection[str]
    join: str = JOINS[0]
    moments: Mapping[str, Sequence[Moments]] | None = None
    notify: Notify = ignore
    maps: dict[str, SoftMap] = field(default_factory=dict)
    units: dict[str, Units] = field(default_factory=dict)
    heads: dict[int, Heads] = field(default_factory=dict)

    def run(self) -> Transform:
        """Find them. Raises PlanError where a width differs and its space is not wanted."""
        stream = "residual" in self.wanted and RESIDUAL in self.models.spaces.sizes and not self.models.spaces.fixed
        if stream and self.models.layers:
            self.put(RESIDUAL, self.of_stream())
        tally = Tally("aligning", self.models.nbytes, self.notify)
        for layer in [None, *self.models.layers]:
            pairs = self.models.of_layer(layer)
            self.match(layer, pairs)
            tally.add(sum(pair.one.nbytes + pair.other.nbytes for pair in pairs))
        left = [name for name in self.models.wider if name not in self.maps]
        if left:
            hint = "leave out spaces, so that all are mapped"
            raise PlanError(f"{listed(left)} would keep another width than the reference's", hint=hint)
        return self.transform

    @property
    def transform(self) -> Transform:
        """What has been found so far."""
        return Transform(dict(self.units), dict(self.heads), maps=dict(self.maps))

    def put(self, space: str, plan: np.ndarray) -> None:
        """Keep a plan, as an order of units where it is one."""
        made = map_of(plan)
        if isinstance(made, Units):
            self.units[space] = made
        else:
            self.maps[space] = made

    def match(self, layer: int | None, pairs: Sequence[Pair]) -> None:
        """Find the maps of what belongs to one layer, or of a chain."""
        own = self.models.spaces.attention.get(layer) if layer is not None else None
        if own is not None and {"heads", "qk", "vo"} & set(self.wanted):
            self.match_attention(layer, own, pairs)  # type: ignore[arg-type]
        for name in [name for name in self.models.spaces.sizes if _inner(name, layer)] if "mlp" in self.wanted else ():
            self.put(name, self.distances(name, self.mapped(pairs)).plan(self.epsilon))

    def mapped(self, pairs: Sequence[Pair], transform: Transform | None = None) -> list[Pair]:
        """Pairs with the model's pieces in the reference's coordinates, as far as these are known."""
        known = self.transform if transform is None else transform
        return [replace(pair, other=changed(pair.other, pair.piece.axes, known, self.models.spaces)) for pair in pairs]

    def distances(self, space: str, pairs: Sequence[Pair]) -> Distances:
        """Of the units of a space, by what they say, or by the weights that write them."""
        made = self.empty(space, signs=self.models.spaces.sizes[space].signs)
        for each in self.moments[space] if self.moments is not None and space in self.moments else ():
            made.add_activations(each)
        if not np.any(made.one):
            _add_written(made, space, pairs)
        return made

    def empty(self, space: str, *, signs: bool) -> Distances:
        """Distances of the units of a space of which nothing is known yet."""
        return Distances(self.models.other.sizes[space].size, self.models.spaces.sizes[space].size, signs=signs)

    # --- the residual stream --------------------------------------------------------------------------------------------

    def of_stream(self) -> np.ndarray:
        """The plan of the channels, by all places that say something of them or, `only_resid`, by the first: the embeddings.

        By weights, those of the layers are compared in the coordinates that the embeddings ask for.
        """
        signs, everywhere = self.models.spaces.sizes[RESIDUAL].signs, self.join == JOINS[0]
        made = self.empty(RESIDUAL, signs=signs)
        if self.moments is not None:
            for each in self.moments[RESIDUAL] if everywhere else self.moments[RESIDUAL][:1]:
                made.add_activations(each)
            return made.plan(self.epsilon)
        _add_written(made, RESIDUAL, self.models.of_layer(None))
        if everywhere:
            first = made.plan(self.epsilon)
            for layer in self.models.layers:
                pairs = self.models.of_layer(layer)
                self.put(RESIDUAL, first)
                self.match(layer, pairs)
                self.units.pop(RESIDUAL, None)
                self.maps.pop(RESIDUAL, None)
                _add_written(made, RESIDUAL, self.mapped(pairs))
            self.units, self.maps, self.heads = {}, {}, {}
        return made.plan(self.epsilon)

    # --- heads ----------------------------------------------------------------------------------------------------------

    def match_attention(self, layer: int, own: Attention, pairs: Sequence[Pair]) -> None:
        """Heads one to one, with their matrices, where layers have the same; else by one soft plan of what they give."""
        reference, aligned = self.models.other.attention[layer], self.mapped(pairs)
        moments = (self.moments or {}).get(f"layers.{layer}.mixed")
        if reference == own and {"qk", "vo"} & set(self.wanted):
            one, other = sides(layer, aligned, own)
            if moments is None:
                self.heads[layer] = match_heads(one, other, own, self.wanted)
            else:
                found = match_mixed(moments[0], own, self.wanted)
                self.heads[layer] = with_gauges(one, other, own, found, {"qk"} & set(self.wanted))
            return
        if not own.order or "heads" not in self.wanted:
            if reference != own:
                why = "each has positions of its own" if not own.order else "heads are not among spaces"
                raise PlanError(
                    f"layer {layer} has other heads in each model, which stay", why=why, hint="leave out spaces"
                )
            return
        space = f"layers.{layer}.mixed"
        made = self.empty(space, signs=True)
        if moments is not None:
            made.add_activations(moments[0])
        else:
            self.add_values(made, layer, reference, own, aligned)
        plan = made.plan(self.epsilon)
        blocks = plan.reshape(reference.queries, own.size, own.queries, own.size)
        values = blocks.reshape(reference.keys, reference.shared, own.size, own.keys, own.shared, own.size).sum((1, 4))
        heads = np.abs(blocks).sum((1, 3))
        groups = heads.reshape(reference.keys, reference.shared, own.keys, own.shared).sum((1, 3))
        shape = reference.keys * own.size, own.keys * own.size
        for word, each in zip(WORDS, (heads, groups, values.reshape(shape), plan), strict=True):
            if not np.array_equal(each * len(each), np.eye(*each.shape)):
                self.maps[f"layers.{layer}.{word}"] = SoftMap((each * len(each)).astype(np.float32))

    def add_values(
        self, made: Distances, layer: int, reference: Attention, own: Attention, pairs: Sequence[Pair]
    ) -> None:
        """What heads give, by the weights that write it, of each query head its key head's, and by those that read it."""
        for pair in pairs:
            for space, group in ((f"layers.{layer}.values", True), (f"layers.{layer}.mixed", False)):
                axis = pair.along(space)
                if axis is not None and pair.piece.axes[axis].signed:  # type: ignore[union-attr]
                    one, other = unfolded(pair.one, axis), unfolded(pair.other, axis)
                    if group:
                        one, other = _shared(one, reference), _shared(other, own)
                    made.add(one, other, signed=True)


def _inner(name: str, layer: int | None) -> bool:
    """Whether a space is of the neurons of one layer; of no layer, of a chain."""
    return (
        name.startswith("hidden.") if layer is None else name.startswith(f"layers.{layer}.") and name.endswith(".mlp")
    )


def _shared(rows: np.ndarray, own: Attention) -> np.ndarray:
    """Rows of key heads, repeated for the query heads that share them."""
    return np.repeat(rows.reshape(own.keys, own.size, -1), own.shared, axis=0).reshape(own.queries * own.size, -1)


def _add_written(made: Distances, space: str, pairs: Sequence[Pair]) -> None:
    """Add the weights that write a space, and its biases; rows of other tokens say nothing."""
    for pair in pairs:
        axis = pair.along(space)
        own = None if axis is None else pair.piece.axes[axis]
        if own is None or own.reads or pair.piece.role == "norm":
            continue
        one, other = unfolded(pair.one, axis), unfolded(pair.other, axis)  # type: ignore[arg-type]
        if one.shape[1] == other.shape[1]:
            made.add(one, other, signed=own.signed)
