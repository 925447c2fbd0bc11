"""What a learnt transform is found by: numbers that move freely, and the legal transform that is nearest to them.

An order takes the gradient of the loss as if it went through the projection unchanged (straight-through). Where the reference's
pieces stand in weight matching, the gradient's stand here: the derivative of the loss by the order of a space is its matrix of
scores.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mergery.alignment.matching.assignment import best_order
from mergery.alignment.matching.learning.blending import Held
from mergery.alignment.matching.pairs import Pair, changed, unfolded
from mergery.alignment.matching.units import Scores
from mergery.alignment.matching.weights import RESIDUAL, WeightMatching
from mergery.architecture.spaces import Attention
from mergery.views.transforms import Transform, Units

MEAN, SQUARE, GUARD = 0.9, 0.99, 1e-10  # of Adam
MOMENTUM = 0.9
SLOWER = 0.15  # of the rate, for orders: one that changes throws off all that has been fitted to it


class LatentWeights:
    """Weights that begin as the reference's; the transform brings the model's closest to them (Git Re-Basin's estimator)."""

    def __init__(self, held: Held, start: Transform, wanted: Collection[str]) -> None:
        self.transform, self.wanted = start, wanted
        self.latent = Held(held.spaces, [replace(pair, one=pair.one.copy()) for pair in held.pairs])
        self.moving = [np.zeros_like(pair.one) for pair in held.pairs]

    def move(self, slopes: Sequence[Pair], rate: float) -> None:
        """One step of gradient descent with momentum, and one sweep of weight matching from where it stands."""
        for pair, moving, slope in zip(self.latent.pairs, self.moving, slopes, strict=True):
            moving *= MOMENTUM
            moving += slope.one
            pair.one -= rate * moving
        self.transform = WeightMatching(self.latent, self.wanted, sweeps=1, start=self.transform).run()


@dataclass
class Adam:
    """How far a matrix, or one for each key head, is moved by gradients of its shape."""

    shape: tuple[int, ...]
    steps: int = 0
    mean: np.ndarray = field(init=False)
    square: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.mean, self.square = np.zeros((2, *self.shape), np.float32 if len(self.shape) == 2 else np.float64)

    def step(self, slope: np.ndarray, rate: float) -> np.ndarray:
        """What is taken off after one more gradient: about `rate` in each number."""
        self.steps += 1
        self.mean += (1.0 - MEAN) * (slope - self.mean)
        self.square += (1.0 - SQUARE) * (slope * slope - self.square)
        size = np.sqrt(self.square / (1.0 - SQUARE**self.steps)) + GUARD
        return rate * (self.mean / (1.0 - MEAN**self.steps)) / size


class LatentMatrices:
    """A matrix for each space (arXiv 2506.22712). Of units it is free, and their order is the nearest one. A rotation R and the
    matrices M of heads stay what they are: a step S along their gradient makes them (I - S) R, of which the nearest rotation
    is taken, and (I - S) M, of the form that positions leave free. Experts and heads stay in the order that they begin with.

    The rate is about the angle by which a step turns a channel.
    """

    def __init__(self, held: Held, start: Transform, wanted: Collection[str]) -> None:
        self.spaces, self.start, self.transform = held.spaces, start, start
        self.units: dict[str, np.ndarray] = {}
        self.matrices: dict[tuple[int, str], np.ndarray] = {}
        for name, each in start.units.items():
            kind = RESIDUAL if name == RESIDUAL else "experts" if name.endswith(".experts") else "mlp"
            rests = kind == RESIDUAL and (start.rotation is not None or bool(self.spaces.fixed))
            if kind in wanted and kind != "experts" and not rests:
                self.units[name] = _as_matrix(each)
        for layer, heads in start.heads.items():
            own = self.spaces.attention[layer]
            for kind, made in (("qk", heads.qk), ("vo", heads.vo)):
                if kind in wanted and (kind == "vo" or own.free in ("planes", "any")):
                    still = np.broadcast_to(np.eye(own.size), (own.keys, own.size, own.size))
                    self.matrices[layer, kind] = np.array(still if made is None else made)
        self.rotation = start.rotation
        self.moving: dict[Any, Adam] = {}

    def move(self, slopes: Sequence[Pair], rate: float) -> None:
        """One step with each matrix, and the legal transform that is nearest to them."""
        for name, values in self.units.items():
            scores = self.scores(slopes, name, signs=self.spaces.sizes[name].signs)
            slope = scores.signed + np.where(values < 0, -1.0, 1.0) * scores.plain
            values -= self.step(name, slope, SLOWER * rate)
        if self.rotation is not None:
            slope = self.scores(slopes, RESIDUAL, signs=False).signed @ self.rotation.T
            turn = self.step(RESIDUAL, (slope - slope.T) / 2, rate / np.sqrt(len(slope)))
            if self.spaces.norm == "layer":  # it takes off the mean of all channels, which has to stay where it is
                turn = turn - turn.mean(0) - turn.mean(1)[:, None] + turn.mean()
            left, _, right = np.linalg.svd(self.rotation - turn @ self.rotation)
            self.rotation = left @ right
        for (layer, kind), matrices in self.matrices.items():
            own = self.spaces.attention[layer]
            slope = self.of_heads(slopes, layer, ("keys", "queries") if kind == "qk" else ("values", "mixed"))
            if kind == "qk":
                slope = _of_positions(slope, own)
            matrices -= self.step((layer, kind), slope, rate / np.sqrt(own.size)) @ matrices
        self.transform = self.nearest()

    def step(self, what: Any, slope: np.ndarray, rate: float) -> np.ndarray:
        """See `Adam.step`."""
        return self.moving.setdefault(what, Adam(slope.shape)).step(slope, rate)

    def scores(self, slopes: Sequence[Pair], space: str, *, signs: bool) -> Scores:
        """The gradient with respect to the order of a space, or to its rotation: [n, n]."""
        found = Scores(self.spaces.sizes[space].size, signs=signs)
        rotating = space == RESIDUAL and self.rotation is not None
        for pair in slopes:
            for place, axis in enumerate(pair.piece.axes):
                if axis is None or axis.space != space or (rotating and not axis.signed):
                    continue  # gains are all one where channels are rotated
                rest = tuple(None if each == place else own for each, own in enumerate(pair.piece.axes))
                other = changed(pair.other, rest, self.transform, self.spaces)
                found.add(unfolded(pair.one, place), unfolded(other, place), signed=axis.signed)
        return found

    def of_heads(self, slopes: Sequence[Pair], layer: int, words: tuple[str, str]) -> np.ndarray:
        """The gradient with respect to E in (I + E) M: [key heads, size, size].

        One side's weights are M X, the other's, which read them, M^-T Y: E adds E M X to the one, and takes E^T M^-T Y off
        the other, to first order.
        """
        own = self.spaces.attention[layer]
        found = np.zeros((2, own.keys, own.size, own.size))
        for side, word in enumerate(words):
            for pair in slopes:
                place = pair.along(f"layers.{layer}.{word}")
                axis = None if place is None else pair.piece.axes[place]
                if place is None or axis is None or not axis.signed:
                    continue
                other = changed(pair.other, pair.piece.axes, self.transform, self.spaces)
                one, other = (
                    unfolded(each, place).reshape(-1, own.size, each.size // each.shape[place])
                    for each in (pair.one, other)
                )
                product = np.matmul(one, other.transpose(0, 2, 1), dtype=np.float64)
                found[side] += product.reshape(own.keys, -1, own.size, own.size).sum(1)
        return found[0] - found[1].transpose(0, 2, 1)

    def nearest(self) -> Transform:
        """The legal transform that is nearest to the matrices."""
        signs = {name: self.spaces.sizes[name].signs for name in self.units}
        units = {name: _nearest_order(values, signs=signs[name]) for name, values in self.units.items()}
        heads = dict(self.start.heads)
        for (layer, kind), matrices in self.matrices.items():
            heads[layer] = replace(heads[layer], **{kind: matrices.copy()})
        return Transform({**self.start.units, **units}, heads, rotation=self.rotation)


def _as_matrix(units: Units) -> np.ndarray:
    made = np.zeros((len(units.order), len(units.order)), np.float32)
    made[np.arange(len(units.order)), units.order] = 1.0 if units.signs is None else units.signs
    return made


def _nearest_order(values: np.ndarray, *, signs: bool) -> Units:
    """By linear assignment; a sign is that of its number."""
    order = best_order(np.abs(values) if signs else values)
    chosen = values[np.arange(len(order)), order]
    return Units(order, np.where(chosen < 0, -1.0, 1.0).astype(np.float32) if signs else None)


def _of_positions(slope: np.ndarray, own: Attention) -> np.ndarray:
    """A gradient with respect to matrices of queries and keys, within the form that positions leave free."""
    if own.free == "any":
        return slope
    made = np.zeros_like(slope)
    for first, second in own.pairs:
        straight = (slope[:, first, first] + slope[:, second, second]) / 2
        across = (slope[:, second, first] - slope[:, first, second]) / 2
        made[:, first, first] = made[:, second, second] = straight
        made[:, second, first], made[:, first, second] = across, -across
    rest = [place for place in range(own.size) if all(place not in pair for pair in own.pairs)]
    made[np.ix_(range(len(made)), rest, rest)] = slope[np.ix_(range(len(made)), rest, rest)]
    return made
