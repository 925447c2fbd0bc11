"""Activation matching: units that say the same on the same texts (arXiv 2209.04836, 2403.00986).

Both models run side by side over texts, block by block. What each weight is multiplied with is a unit's activation: neurons
behind their activation, values as heads have mixed them, channels behind the norms. Units are matched by the correlation over
tokens, and the matrix of a head's values is the rotation that brings its outputs closest to the other's. Queries and keys are
inputs of no weight, and experts may get other tokens: those are matched by their weights, in the coordinates of the rest.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mergery.alignment.matching.assignment import best_order
from mergery.alignment.matching.heads import heads_agree, sides, with_gauges
from mergery.alignment.matching.pairs import Models, Pair
from mergery.alignment.matching.units import Scores, units_agree
from mergery.alignment.matching.weights import RESIDUAL, WeightMatching
from mergery.architecture.spaces import Attention, Spaces
from mergery.calibration.counting import limit_of
from mergery.calibration.crossing import Crossing
from mergery.calibration.data import inputs_of
from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.opening import opened_checkpoint
from mergery.calibration.passes import Shelf
from mergery.calibration.sequential.lockstep import Lockstep, Teacher
from mergery.calibration.sequential.seen import Seen
from mergery.calibration.sources import texts_of
from mergery.errors import RecipeError
from mergery.evaluation.loading import check_transformers, quiet, tokenizer_of
from mergery.evaluation.running import torch_threads
from mergery.recipe.aligning import KINDS, Align
from mergery.run.events import Notify, Tally, Visited, ignore
from mergery.views.transforms import Heads, Transform, Units

FEW = 2  # tokens for each unit of a space, below which correlations are chance


@dataclass
class Moments:
    """Sums over tokens of two models' activations at one place: of each, of their squares, and of their products."""

    one: np.ndarray  # float64 [n], of the reference
    other: np.ndarray
    ones: np.ndarray  # squares
    others: np.ndarray
    both: np.ndarray  # float64 [n, n]
    tokens: int = 0

    @classmethod
    def empty(cls, size: int) -> Moments:
        """Of no tokens yet."""
        one, other, ones, others = np.zeros((4, size))
        return cls(one, other, ones, others, np.zeros((size, size)))

    def add(self, one: Any, other: Any) -> None:
        """Add float32 rows of the same tokens, torch tensors [tokens, n]."""
        self.one += one.double().sum(0).numpy()
        self.other += other.double().sum(0).numpy()
        self.ones += one.double().square().sum(0).numpy()
        self.others += other.double().square().sum(0).numpy()
        self.both += (one.T @ other).double().numpy()
        self.tokens += len(one)

    @property
    def covariance(self) -> np.ndarray:
        """[n, n], rows of the reference."""
        return self.both / self.tokens - np.outer(self.one, self.other) / self.tokens**2

    @property
    def deviations(self) -> tuple[np.ndarray, np.ndarray]:
        """Standard deviations of both; 0 where a unit says the same of every token, but for rounding."""
        found = []
        for sums, squares in ((self.one, self.ones), (self.other, self.others)):
            mean, square = sums / self.tokens, squares / self.tokens
            variance = np.maximum(square - mean**2, 0.0)
            found.append(np.sqrt(np.where(variance < 1e-9 * np.maximum(square, 1e-30), 0.0, variance)))
        return found[0], found[1]

    @property
    def correlation(self) -> np.ndarray:
        """[n, n]; 0 where one of the two does not vary."""
        one, other = self.deviations
        scale = np.outer(one, other)
        return np.divide(self.covariance, scale, out=np.zeros_like(scale), where=scale > 0)


@dataclass
class Correlating(Crossing):
    """Gathers moments of what weights are multiplied with, by the space that they read."""

    spaces: Spaces | None = None
    of_spaces: dict[str, list[Any]] = field(default_factory=dict)  # Moments
    by_place: dict[tuple[str, int], Any] = field(default_factory=dict)

    def see(self, teacher: int, merged: Seen | None, own: Seen) -> None:
        """See `Fitter.see`: `merged` is the model that is aligned, `own` the reference."""
        assert merged is not None
        for place in merged.rows:
            other, one = merged.of(place), own.of(place)
            space = self.space(self.tensors(place)[0])
            if one is None or space is None or one.shape != other.shape:
                continue
            key = (place.name, place.start)
            if key not in self.by_place:
                self.by_place[key] = Moments.empty(other.shape[1])
                self.of_spaces.setdefault(space, []).append(self.by_place[key])
            self.by_place[key].add(one.float(), other.float())

    def space(self, tensor: str) -> str | None:
        """The space that a tensor reads."""
        assert self.spaces is not None
        axes = [axis for piece in self.spaces.pieces if piece.tensor == tensor for axis in piece.axes]
        return next((axis.space for axis in axes if axis is not None and axis.reads), None)


def measured(
    models: Models, align: Align, folder: Path, notify: Notify = ignore, kind: type[Correlating] = Correlating
) -> dict[str, list[Any]]:
    """Moments of both models' activations by space, on the texts that `align` names; of a `kind`. Raises MergeryError."""
    check_transformers("aligning by activations")
    with (
        quiet(),
        opened_checkpoint(models.model.donor) as opened,
        tempfile.TemporaryDirectory(prefix="mergery-") as kept,
    ):
        streamed, reference = StreamedModel(models.model), StreamedModel(models.reference)
        words = tokenizer_of(None, opened.folder)
        longest = min(align.length, limit_of(streamed.config))
        given: Any = {"longest": longest, "limit": align.samples, "pair": False, "seed": 0, "shared": opened.statistics}
        with torch_threads(0):
            texts = texts_of(align.data, folder, streamed, words, **given)
            for each in (streamed, reference):
                each.prepare(opened.statistics())

            def one(rows: Any) -> Any:
                return lambda each: each.module(**inputs_of(rows, each.config))

            correlating = kind(streamed, spaces=models.spaces)
            units = {unit.name: number for number, unit in enumerate(streamed.units, 1)}

            def visited(unit: Unit) -> None:
                notify(Visited(unit.name, units[unit.name], len(units)))

            size = models.spaces.sizes[RESIDUAL].size
            passes = [one(rows) for rows in texts.batches(False)]
            shelf = Shelf(Path(kept), 4 * texts.tokens * size * 4)
            Lockstep(streamed, [Teacher("reference", reference, passes)], shelf).run(
                correlating, kept=lambda unit: None, told=lambda unit, weights, changed: None, visited=visited
            )
    return correlating.of_spaces


@dataclass
class ActivationMatching:
    """A search for a transform on data. `history` is what is left of the squared difference of weights, before and after."""

    models: Models
    moments: dict[str, list[Moments]]
    wanted: Collection[str] = KINDS
    notify: Notify = ignore
    history: list[float] = field(default_factory=list)

    def run(self) -> Transform:
        """Find it. Raises RecipeError where the data are too few."""
        if not self.moments:
            raise RecipeError("no activations of the two models could be compared", hint="align: {method: weights}")
        matching = self.matching = WeightMatching(self.models, self.wanted, notify=self.notify)
        outside = self.models.of_layer(None)
        before = after = 0.0
        if not matching.settled and RESIDUAL in self.moments and not matching.agrees(outside):
            matching.units[RESIDUAL] = self.units(RESIDUAL, matching.units[RESIDUAL])
        tally = Tally("aligning", self.models.nbytes, self.notify)
        for layer in [None, *self.models.layers]:
            pairs = outside if layer is None else self.models.of_layer(layer)
            before += matching.left(pairs, Transform())
            if layer is not None:
                self.match_layer(layer, matching.seen(pairs, RESIDUAL))
            after += matching.left(pairs, matching.transform)
            tally.add(sum(pair.one.nbytes + pair.other.nbytes for pair in pairs))
        self.history = [before, after]
        return matching.transform

    def match_layer(self, layer: int, pairs: Sequence[Pair]) -> None:
        """Match what belongs to one layer; what agrees by weights, as in a fine-tune, stays as it is."""
        matching, own = self.matching, self.models.spaces.attention.get(layer)
        if own is not None and {"heads", "qk", "vo"} & set(self.wanted):
            one, other = sides(layer, pairs, own)
            moments = self.moments.get(f"layers.{layer}.mixed")
            gauges = {"qk", "vo"} & set(self.wanted)
            if moments and not heads_agree(one, other, own):
                matching.heads[layer] = match_mixed(moments[0], own, self.wanted)
                gauges.discard("vo")
            matching.heads[layer] = with_gauges(one, other, own, matching.heads[layer], gauges)
        for name in (f"layers.{layer}.mlp", f"layers.{layer}.shared.mlp"):
            if name not in matching.units or "mlp" not in self.wanted:
                continue
            if name not in self.moments:
                matching.match_space(name, pairs)
            elif not units_agree(name, self.models.spaces.sizes[name].size, pairs):
                matching.units[name] = self.units(name, matching.units[name])
        if f"layers.{layer}.experts" in matching.units:
            matching.match_mixture(layer, pairs)

    def units(self, name: str, before: Units) -> Units:
        """The units of a space by their correlation at all places where weights read them."""
        space, moments = self.models.spaces.sizes[name], self.moments[name]
        if min(each.tokens for each in moments) < FEW:
            hint = "more samples, or longer ones"
            raise RecipeError(f"{moments[0].tokens} tokens are too few to compare activations", hint=hint)
        scores = Scores(space.size, signs=space.signs)
        for each in moments:
            scores.signed += each.correlation
        return scores.solved(before)[0]


def match_mixed(moments: Moments, own: Attention, wanted: Collection[str]) -> Heads:
    """A layer's heads by what they give: how much of it a rotation of values brings together, or their correlation as it is."""
    groups, queries = np.arange(own.keys), np.arange(own.queries)
    blocks = moments.covariance.reshape(own.queries, own.size, own.queries, own.size).transpose(0, 2, 1, 3)
    one, other = (np.sqrt((each**2).reshape(own.queries, -1).sum(1)) for each in moments.deviations)
    blocks = blocks / np.maximum(np.outer(one, other), 1e-30)[:, :, None, None]
    turned = "vo" in wanted
    alike = np.linalg.svd(blocks, compute_uv=False).sum(-1) if turned else np.trace(blocks, axis1=2, axis2=3)
    inner = {
        (first, second): best_order(alike[_of(first, own), _of(second, own)])
        if "heads" in wanted and own.order
        else None
        for first in range(own.keys)
        for second in range(own.keys)
    }
    places = np.arange(own.shared)
    if "heads" in wanted and own.order:
        scores = np.array([
            [alike[_of(first, own), _of(second, own)][places, inner[first, second]].sum() for second in range(own.keys)]
            for first in range(own.keys)
        ])  # fmt: skip
        groups = best_order(scores)
        queries = np.concatenate([group * own.shared + inner[place, int(group)] for place, group in enumerate(groups)])
    if not turned:
        return Heads(groups, queries)
    pairs = blocks[np.arange(own.queries), queries].reshape(own.keys, own.shared, own.size, own.size)
    return Heads(groups, queries, None, np.stack([_rotation(each) for each in pairs.sum(1)]))


def _of(group: int, own: Attention) -> slice:
    return slice(group * own.shared, (group + 1) * own.shared)


def _rotation(covariance: np.ndarray) -> np.ndarray:
    """The rotation of the other's values that brings them closest to the reference's."""
    left, _, right = np.linalg.svd(covariance)
    return left @ right
