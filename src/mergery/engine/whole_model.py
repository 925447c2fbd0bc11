"""Statistics over a whole model, from those of its tensors: exact, whoever reads which tensor.

Counts of several workers add up; sums are of fixed blocks, then of tensors in the order of the plan. Nothing here grows
with the model but one number for each tensor and sum.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mergery.engine import reductions as reduce
from mergery.engine.merging import Shuttle, needed
from mergery.engine.ranks import largest
from mergery.graph.nodes import Weave
from mergery.method import Ask, Largest, Sum


@dataclass(frozen=True)
class Question:
    """What one pass or two over some tensors can answer: asks of the same thing, or (without asks) the Gram matrix."""

    weaves: list[Weave]
    asks: tuple[tuple[str, Ask], ...] = ()

    @property
    def names(self) -> list[str]:
        """Whose answers they are: `method.parameter`."""
        method = self.weaves[0].method
        return [f"{method.name}.{name}" for name in ([name for name, _ in self.asks] or [method.first])]


class Scan(Protocol):
    """Visits every tensor of a question: `visit(shuttle, *own)`, in any order and by several workers.

    Each worker counts into arrays of its own, which are added to `counted`. Returns what the visits gave, in the order of
    the tensors.
    """

    def __call__(self, weaves: list[Weave], visit: Any, *counted: np.ndarray) -> list[Any]: ...


def questions(weaves: list[Weave]) -> Iterator[Question]:
    """What the methods of one merge ask of the whole model, in the order in which it must be answered."""
    for name in dict.fromkeys(weave.method.name for weave in weaves):
        own = [weave for weave in weaves if weave.method.name == name]
        method = own[0].method
        asked: list[tuple[tuple[str, Ask], list[Weave]]] = []
        for item in method.asks:
            asking = [weave for weave in own if needed(item[1], weave.settings) and item[1].spans_model(weave.settings)]
            if asking and isinstance(item[1], (Largest, Sum)):
                asked.append((item, asking))

        def subject(entry: tuple[tuple[str, Ask], list[Weave]]) -> Any:
            (parameter, ask), asking = entry
            return (ask.of, ask.nonzero, [id(weave) for weave in asking]) if isinstance(ask, Largest) else parameter

        for _, group in itertools.groupby(asked, subject):
            members = list(group)
            yield Question(members[0][1], tuple(item for item, _ in members))
        spanned = [weave for weave in own if method.takes == "gram" and weave.settings.get("scope") == "model"]
        if spanned:
            yield Question(spanned)


def answer(question: Question, scan: Scan) -> list[Any]:
    """The answers, in the order of `question.names`: numbers, or lists with one for each model."""
    weaves, asks = question.weaves, question.asks
    if not asks:
        parts = np.stack(scan(weaves, lambda shuttle: reduce.gram(shuttle.reader)))
        k = parts.shape[1]
        return [[[math.fsum(parts[:, i, j]) for j in range(k)] for i in range(k)]]
    (name, ask) = asks[0]
    if isinstance(ask, Sum):
        parts = scan(weaves, lambda shuttle: shuttle.before(name).sum(ask.of))
        if not isinstance(parts[0], list):
            return [math.fsum(parts)]
        return [[math.fsum(column) for column in zip(*parts, strict=True)]]
    orders = [(each, order) for each, order in asks if isinstance(order, Largest)]
    if orders[0][1].of is None:
        return _of_deltas(weaves, orders, scan)
    return _of_derived(weaves, orders, scan)


def _of_deltas(weaves: list[Weave], asks: list[tuple[str, Largest]], scan: Scan) -> list[Any]:
    total = sum(weave.elements for weave in weaves)

    def high(counts: np.ndarray) -> int:
        return sum(scan(weaves, lambda shuttle, own: reduce.count_high(shuttle.reader, own), counts))

    def low(first: np.ndarray, counts: np.ndarray, above: np.ndarray) -> None:
        scan(weaves, lambda shuttle, *own: reduce.count_low(shuttle.reader, first, *own), counts, above)

    def sample(counts: np.ndarray) -> int:
        return sum(scan(weaves, lambda shuttle, own: reduce.count_sample(shuttle.reader, own), counts))

    ranks = reduce.ranking(asks, total, lambda n: reduce.ranks_of(weaves[0], asks, n, {}))
    values = largest(ranks, len(weaves[0].models), total, high, low, sample)
    return [values[:, column].tolist() for column in range(len(asks))]


def _of_derived(weaves: list[Weave], asks: list[tuple[str, Largest]], scan: Scan) -> list[Any]:
    """Order statistics of what a function gives: of one tensor, or of one for each model."""
    name, of = asks[0][0], asks[0][1].of
    total = sum(weave.elements for weave in weaves)

    def peek(shuttle: Shuttle) -> tuple[bool, dict[str, Any]]:
        return shuttle.before(name).gives_each(of), dict(shuttle.asked)

    ((each, known),) = scan(weaves[:1], peek)
    ranks = reduce.ranking(asks, total, lambda n: reduce.derived_ranks(weaves[0], asks, n, known, each=each))
    k = len(weaves[0].models) if each else 1

    def high(counts: np.ndarray) -> int:
        scan(weaves, lambda shuttle, own: reduce.count_high_of(shuttle.before(name).stacked(of), own), counts)
        return total

    def low(first: np.ndarray, counts: np.ndarray, above: np.ndarray) -> None:
        scan(
            weaves,
            lambda shuttle, *own: reduce.count_low_of(shuttle.before(name).stacked(of), first, *own),
            counts,
            above,
        )

    values = largest(ranks, k, total, high, low)
    return [values[:, column].tolist() if each else float(values[0, column]) for column in range(len(asks))]
