"""Weight matching: the coordinates of one model in which its weights are closest to another's (arXiv 2209.04836).

The sum of squared differences of all weights is made smaller, one kind of space after the other, by steps that are each exact:
neurons, experts and channels by linear assignment, heads by the best matrices of each pair of them. No step makes it
larger, and it ends where none makes it smaller. The channels of the residual stream begin with what embeddings and head say of
them, which nothing else can hide. It needs the layers of both models one at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mergery.alignment.matching.heads import left_between, match_heads, sides
from mergery.alignment.matching.pairs import Models, Pair, changed, in_places, unfolded
from mergery.alignment.matching.turning import best_turn
from mergery.alignment.matching.units import Agreement, Scores, identity, match_experts, match_units
from mergery.recipe.aligning import KINDS, ROTATION
from mergery.run.events import Notify, Tally, ignore
from mergery.views.transforms import Heads, Transform, Units

SWEEPS = 20
RESIDUAL = "residual"


@dataclass
class WeightMatching:
    """A search for a transform. `history` is what is left of the squared difference, after each step over all of the model."""

    models: Models
    wanted: Collection[str] = KINDS
    sweeps: int = SWEEPS
    notify: Notify = ignore
    history: list[float] = field(default_factory=list)
    units: dict[str, Units] = field(default_factory=dict)
    heads: dict[int, Heads] = field(default_factory=dict)
    rotation: np.ndarray | None = None  # of channels, in place of an order, where that is wanted: see `folded`
    start: Transform | None = None  # what has been found before, from which it goes on

    def __post_init__(self) -> None:
        for name, space in self.models.spaces.sizes.items():
            if name == RESIDUAL or name.endswith((".mlp", ".experts")) or name.startswith("hidden."):
                self.units[name] = identity(space.size, signs=space.signs)
        for layer, own in self.models.spaces.attention.items():
            self.heads[layer] = Heads(np.arange(own.keys), np.arange(own.queries))
        if self.start is not None:
            self.units |= self.start.units
            self.heads |= self.start.heads
            self.rotation = self.start.rotation
        self.rotating = ROTATION in self.wanted
        free = {RESIDUAL, ROTATION} & set(self.wanted) and RESIDUAL in self.units and not self.models.spaces.fixed
        self.settled = not free  # whether channels are certain

    @property
    def transform(self) -> Transform:
        """The transform that has been found so far."""
        return Transform(dict(self.units), dict(self.heads), rotation=self.rotation)

    def run(self) -> Transform:
        """Find it."""
        outside = self.models.of_layer(None)
        if not self.settled and self.start is None:
            self.begin(outside)
        self.settled = self.settled or self.agrees(outside)
        for _ in range(self.sweeps):
            if not self.sweep(outside):
                break
        return self.transform

    # --- channels -------------------------------------------------------------------------------------------------------

    def begin(self, outside: Sequence[Pair]) -> None:
        """The order of channels that matrices outside all layers ask for: rows of tokens, where both models have as many."""
        size, signs = self.models.spaces.sizes[RESIDUAL]
        told = any(pair.one.ndim == 2 and pair.along(RESIDUAL) is not None for pair in outside)
        if told and not self.agrees(outside):
            layers = (self.left(self.models.of_layer(layer), Transform()) for layer in self.models.layers)
            self.history.append(self.left(outside, Transform()) + sum(layers))
            scores = Scores(size, signs=signs)
            self.add_channels(scores, outside, Transform())
            self.match_channels(scores)

    def agrees(self, outside: Sequence[Pair]) -> bool:
        """Whether all channels are those of the reference, by matrices outside the layers."""
        agreement, seen = Agreement(self.models.spaces.sizes[RESIDUAL].size), False
        own = Transform({RESIDUAL: self.units[RESIDUAL]}, rotation=self.rotation)
        for pair in outside:
            axis = pair.along(RESIDUAL)
            if axis is not None and pair.one.ndim == 2:
                other = changed(pair.other, pair.piece.axes, own, self.models.spaces)
                agreement.add(unfolded(pair.one, axis), unfolded(other, axis))
                seen = True
        return seen and agreement.holds

    def match_channels(self, scores: Scores) -> float:
        """The order of channels, or their rotation, that scores ask for; and what is gained."""
        if not self.rotating:
            self.units[RESIDUAL], gain = scores.solved(self.units[RESIDUAL])
            return gain
        turn, best = best_turn(scores.signed, mean=self.models.spaces.norm == "layer")
        before = scores.signed.trace() if self.rotation is None else float((self.rotation * scores.signed).sum())
        gain = best - before
        if gain <= 1e-6 * abs(best):
            return 0.0
        self.rotation = turn
        return gain

    def add_channels(self, scores: Scores, pairs: Sequence[Pair], transform: Transform) -> None:
        """Add to the scores of channels what pieces say, once all else of them is in the reference's coordinates."""
        for pair in in_places(pairs, transform):
            places = [axis for axis, own in enumerate(pair.piece.axes) if own and own.space == RESIDUAL]
            if len(places) == 1:  # what stands between the channels and themselves says little of either
                (axis,) = places
                other = changed(pair.other, pair.piece.axes, transform, self.models.spaces)
                own = pair.piece.axes[axis]
                scores.add(unfolded(pair.one, axis), unfolded(other, axis), signed=own is not None and own.signed)

    # --- one sweep ------------------------------------------------------------------------------------------------------

    def sweep(self, outside: Sequence[Pair]) -> bool:
        """Look at all of both models once. Whether anything has changed."""
        models, moved, before, after = self.models, False, 0.0, 0.0
        size, signs = models.spaces.sizes.get(RESIDUAL, (0, False))
        scores = None if self.settled else Scores(size, signs=signs)
        tally = Tally("aligning", models.nbytes, self.notify)
        for layer in [None, *models.layers]:
            pairs = outside if layer is None else models.of_layer(layer)
            before += self.left(pairs, self.transform)
            if layer is not None:
                moved |= self.match_layer(layer, pairs)
            elif any(name.startswith("hidden.") for name in self.units):
                moved |= self.match_chain(pairs)
            after += self.left(pairs, self.transform)
            if scores is not None:
                inner = {name: each for name, each in self.units.items() if name != RESIDUAL}
                self.add_channels(scores, pairs, Transform(inner, self.heads))
            tally.add(sum(pair.one.nbytes + pair.other.nbytes for pair in pairs))
        self.history += [before, after] if not self.history else [after]
        if scores is not None:
            gain = self.match_channels(scores)
            self.history.append(after - 2 * gain)
            moved |= gain > 0
        return moved

    def left(self, pairs: Sequence[Pair], transform: Transform) -> float:
        """The sum of squared differences of pieces once the model's are changed."""
        total = 0.0
        for pair in in_places(pairs, transform):
            if sum(axis is not None and axis.space == RESIDUAL for axis in pair.piece.axes) < 2:
                other = changed(pair.other, pair.piece.axes, transform, self.models.spaces)
                total += float(((pair.one.astype(np.float64) - other) ** 2).sum())
        return total

    def seen(self, pairs: Sequence[Pair], *kept: str) -> list[Pair]:
        """Pairs with the model's pieces in the reference's coordinates, of these spaces alone."""
        rotation = self.rotation if RESIDUAL in kept else None
        own = Transform({name: self.units[name] for name in kept if name in self.units}, rotation=rotation)
        return [replace(pair, other=changed(pair.other, pair.piece.axes, own, self.models.spaces)) for pair in pairs]

    def match_layer(self, layer: int, pairs: Sequence[Pair]) -> bool:
        """Match what belongs to one layer. Whether anything has changed."""
        aligned = self.seen(pairs, RESIDUAL)
        moved = False
        own = self.models.spaces.attention.get(layer)
        if own is not None and {"heads", "qk", "vo"} & set(self.wanted):
            one, other = sides(layer, aligned, own)
            made = match_heads(one, other, own, self.wanted)
            now = left_between(one, other, own, self.heads[layer])
            if left_between(one, other, own, made) < now * (1 - 1e-6):
                self.heads[layer], moved = made, True
        for name in (f"layers.{layer}.mlp", f"layers.{layer}.shared.mlp"):
            if name in self.units and "mlp" in self.wanted:
                moved |= self.match_space(name, aligned)
        if f"layers.{layer}.experts" in self.units:
            moved |= self.match_mixture(layer, aligned)
        return moved

    def match_space(self, name: str, pairs: Sequence[Pair]) -> bool:
        space = self.models.spaces.sizes[name]
        own = [pair for pair in pairs if pair.along(name) is not None]
        found, gain = match_units(name, space.size, own, self.units[name], signs=space.signs)
        self.units[name] = found
        return gain > 0

    def match_chain(self, pairs: Sequence[Pair]) -> bool:
        """Match the hidden layers of a plain chain, one after the other."""
        moved = False
        for name in [name for name in self.units if "mlp" in self.wanted]:
            others = [each for each in self.units if each != name]
            moved |= self.match_space(name, self.seen(pairs, *others))
        return moved

    def match_mixture(self, layer: int, pairs: Sequence[Pair]) -> bool:
        """Match a layer's experts, and the neurons of each; taken where less is left than before."""
        name = f"layers.{layer}.experts"
        count = self.models.spaces.sizes[name].size
        experts = [[pair for pair in pairs if pair.piece.expert == str(number)] for number in range(count)]
        routers = [pair for pair in pairs if pair.along(name) == 0]
        before = self.of_mixture(name)
        own = [*routers, *(pair for each in experts for pair in each)]
        now = self.left(own, Transform(before))
        order = before[name].order
        if "experts" in self.wanted:
            order = match_experts(count, routers, experts, order)
            self.units[name] = Units(order)
        for place, number in enumerate(order.tolist()):
            inner = f"{name}.{place}.mlp"
            if inner in self.units and "mlp" in self.wanted:
                space = self.models.spaces.sizes[inner]
                both = [
                    replace(mine, other=theirs.other)
                    for mine, theirs in zip(experts[place], experts[number], strict=True)
                ]
                still = identity(space.size, signs=space.signs)
                was = self.units[inner] if number == before[name].order[place] else still
                self.units[inner], _ = match_units(inner, space.size, both, was, signs=space.signs)
        if self.left(own, Transform(self.of_mixture(name))) < now * (1 - 1e-6):
            return True
        self.units.update(before)
        return False

    def of_mixture(self, name: str) -> dict[str, Units]:
        """The units of a layer's experts, and of the neurons of each."""
        return {key: each for key, each in self.units.items() if key.startswith(f"{name}.") or key == name}
