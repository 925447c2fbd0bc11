"""Single coordinates of a space matched one to one, with signs where a model does not see them: neurons, channels, experts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mergery.alignment.matching.assignment import AGREES, best_order, gained
from mergery.alignment.matching.pairs import Pair, unfolded
from mergery.views.transforms import Units


class Scores:
    """How alike each unit of the reference is to each of the model: inner products, added up piece by piece.

    signed, plain: float64 [n, n], of pieces that a sign of the space reaches, and of others.
    """

    def __init__(self, size: int, *, signs: bool) -> None:
        self.signs = signs
        self.signed, self.plain = np.zeros((size, size)), np.zeros((size, size))

    def add(self, one: np.ndarray, other: np.ndarray, *, signed: bool) -> None:
        """Add the products of one piece's units: rows of float32 [n, rest]."""
        (self.signed if signed else self.plain).__iadd__((one @ other.T).astype(np.float64))

    @property
    def best(self) -> np.ndarray:
        """What each pair of units gives, with the better sign where there may be one."""
        return (np.abs(self.signed) if self.signs else self.signed) + self.plain

    def value(self, units: Units) -> float:
        """What a choice of units gives."""
        rows = np.arange(len(units.order))
        signs = 1.0 if units.signs is None else units.signs
        return float((signs * self.signed[rows, units.order] + self.plain[rows, units.order]).sum())

    def solved(self, before: Units) -> tuple[Units, float]:
        """The best units, and what they give more than those before; these where that is nothing but rounding."""
        found = best_order(self.best)
        rows = np.arange(len(found))
        signs = None
        if self.signs:
            signs = np.where(self.signed[rows, found] < 0, -1.0, 1.0).astype(np.float32)
        made = Units(found, signs)
        gain = self.value(made) - self.value(before)
        return (made, gain) if gain > 1e-7 * float(np.abs(self.best[rows, found]).sum()) else (before, 0.0)


class Agreement:
    """Whether each unit is about its namesake: the cosine of all that belongs to it."""

    def __init__(self, size: int) -> None:
        self.inner, self.one, self.other = np.zeros(size), np.zeros(size), np.zeros(size)

    def add(self, one: np.ndarray, other: np.ndarray) -> None:
        """Add one piece's units: rows of [n, rest]."""
        self.inner += np.einsum("ij,ij->i", one, other)
        self.one += np.einsum("ij,ij->i", one, one)
        self.other += np.einsum("ij,ij->i", other, other)

    @property
    def holds(self) -> bool:
        return bool(np.all(self.inner >= AGREES * np.sqrt(self.one * self.other)))


def identity(size: int, *, signs: bool) -> Units:
    """Units that stay."""
    return Units(np.arange(size), np.ones(size, np.float32) if signs else None)


def match_units(space: str, size: int, pairs: Sequence[Pair], before: Units, *, signs: bool) -> tuple[Units, float]:
    """The best units of a space, and what they give more than those before.

    The model's pieces are in the reference's coordinates but for this space. A space whose units agree with their namesakes is
    left as it is.
    """
    if units_agree(space, size, pairs):
        still = identity(size, signs=signs)
        return (still, 0.0) if not before.is_identity else (before, 0.0)
    scores = Scores(size, signs=signs)
    for one, other, signed in _unfolded(space, pairs):
        scores.add(one, other, signed=signed)
    return scores.solved(before)


def units_agree(space: str, size: int, pairs: Sequence[Pair]) -> bool:
    """Whether each unit of a space is about its namesake by all weights that touch it."""
    agreement = Agreement(size)
    for one, other, _ in _unfolded(space, pairs):
        agreement.add(one, other)
    return agreement.holds


def _unfolded(space: str, pairs: Iterable[Pair]) -> Iterable[tuple[np.ndarray, np.ndarray, bool]]:
    for pair in pairs:
        for axis, own in enumerate(pair.piece.axes):
            if own is not None and own.space == space:
                yield unfolded(pair.one, axis), unfolded(pair.other, axis), own.signed


def match_experts(
    count: int, routers: Sequence[Pair], experts: Sequence[Sequence[Pair]], before: np.ndarray
) -> np.ndarray:
    """The order of a layer's experts, by what the order of their neurons does not change: the router's rows, and the lengths of
    what each reads of and writes to each channel. `experts` are the pairs of each, under its own number.
    """
    agreement = Agreement(count)
    rows = [(pair.one, pair.other) for pair in routers if len(pair.one) == count and pair.one.ndim == 2]
    for one, other in rows:
        agreement.add(one, other)
    if rows and agreement.holds:
        return np.arange(count)
    scores = np.zeros((count, count))
    for features in (rows, _profiles(experts)):
        for one, other in features:
            scores += _cosines(one, other)
    found = best_order(scores)
    return found if gained(scores, before, found) else before


def _profiles(experts: Sequence[Sequence[Pair]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each matrix of an expert, the lengths of what it reads of or writes to each channel: [experts, channels] of both."""
    found = []
    for alike in zip(*experts, strict=True):
        axis = alike[0].along("residual")
        if axis is None or alike[0].one.ndim != 2:
            continue
        lengths = [
            np.stack([np.sqrt((values.astype(np.float64) ** 2).sum(1 - axis)) for values in side])
            for side in ([pair.one for pair in alike], [pair.other for pair in alike])
        ]
        found.append(tuple(each - each.mean(0) for each in lengths))
    return found


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)[None, :]
    return (one @ other.T) / np.maximum(lengths, 1e-30)
