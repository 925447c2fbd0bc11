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
from mergery.engine.held import Held
from mergery.engine.merging import Merging
from mergery.engine.ranks import largest
from mergery.graph.nodes import Merged
from mergery.graph.ranks import ranks_of, ranks_of_derived
from mergery.method import Ask, Largest, Sum


@dataclass(frozen=True)
class Question:
    """What one pass or two over some tensors can answer: asks of the same thing, or (without asks) the Gram matrix."""

    nodes: list[Merged]
    asks: tuple[tuple[str, Ask], ...] = ()

    @property
    def names(self) -> list[str]:
        """Whose answers they are: `method.parameter`."""
        method = self.nodes[0].method
        return [f"{method.name}.{name}" for name in ([name for name, _ in self.asks] or [method.first])]


class Scan(Protocol):
    """Visits every tensor of a question: `visit(merging, *own)`, in any order and by several workers.

    Each worker counts into arrays of its own, which are added to `counted`. Returns what the visits gave, in the order of
    the tensors.
    """

    def __call__(self, nodes: list[Merged], visit: Any, *counted: np.ndarray) -> list[Any]: ...


def questions(nodes: list[Merged]) -> Iterator[Question]:
    """What the methods of one merge ask of the whole model, in the order in which it must be answered."""
    for name in dict.fromkeys(node.method.name for node in nodes):
        own = [node for node in nodes if node.method.name == name]
        method = own[0].method
        asked: list[tuple[tuple[str, Ask], list[Merged]]] = []
        for item in method.asks:
            asking = [node for node in own if item[1].needed(node.settings) and item[1].spans_model(node.settings)]
            if asking:
                asked.append((item, asking))

        def subject(entry: tuple[tuple[str, Ask], list[Merged]]) -> Any:
            (parameter, ask), asking = entry
            return (ask.of, ask.nonzero, [id(node) for node in asking]) if isinstance(ask, Largest) else parameter

        for _, group in itertools.groupby(asked, subject):
            members = list(group)
            yield Question(members[0][1], tuple(item for item, _ in members))
        spanned = [node for node in own if method.gram_spans_model(node.settings)]
        if spanned:
            yield Question(spanned)


def answer(question: Question, scan: Scan, held: Held | None = None) -> list[Any]:
    """The answers, in the order of `question.names`: numbers, or lists with one for each model. `held` knows what earlier runs
    have found out about the same inputs.
    """
    nodes, asks = question.nodes, question.asks
    if not asks:
        parts = np.stack(scan(nodes, lambda merging: reduce.gram(merging.reader)))
        k = parts.shape[1]
        return [[[math.fsum(parts[:, i, j]) for j in range(k)] for i in range(k)]]
    (name, ask) = asks[0]
    if isinstance(ask, Sum):
        parts = scan(nodes, lambda merging: merging.before(name).sum(ask.of))
        if not isinstance(parts[0], list):
            return [math.fsum(parts)]
        return [[math.fsum(column) for column in zip(*parts, strict=True)]]
    orders = [(each, order) for each, order in asks if isinstance(order, Largest)]
    if orders[0][1].of is None:
        return _of_deltas(nodes, orders, scan, held)
    return _of_derived(nodes, orders, scan)


def _of_deltas(nodes: list[Merged], asks: list[tuple[str, Largest]], scan: Scan, held: Held | None) -> list[Any]:
    total = sum(node.elements for node in nodes)

    def high(counts: np.ndarray) -> int:
        return sum(scan(nodes, lambda merging, own: reduce.count_high(merging.reader, own), counts))

    def low(first: np.ndarray, counts: np.ndarray, above: np.ndarray) -> None:
        scan(nodes, lambda merging, *own: reduce.count_low(merging.reader, first, *own), counts, above)

    def sample(counts: np.ndarray) -> int:
        return sum(scan(nodes, lambda merging, own: reduce.count_sample(merging.reader, own), counts))

    ranks = reduce.ranking(asks, total, lambda n: ranks_of(nodes[0], asks, n, {}))

    def find() -> np.ndarray:
        return largest(ranks, len(nodes[0].models), total, high, low, sample)

    rows = [None if held is None else held.key(node.aligned) for node in nodes]
    if held is None or callable(ranks) or any(each is None for each in rows):
        values = find()
    else:
        values = held.fact((*rows, nodes[0].base is None, ranks.tobytes()), find)
    return [values[:, column].tolist() for column in range(len(asks))]


def _of_derived(nodes: list[Merged], asks: list[tuple[str, Largest]], scan: Scan) -> list[Any]:
    """Order statistics of what a function gives: of one tensor, or of one for each model."""
    name, of = asks[0][0], asks[0][1].of
    total = sum(node.elements for node in nodes)

    def peek(merging: Merging) -> tuple[bool, dict[str, Any]]:
        return merging.before(name).gives_each(of), dict(merging.asked)

    ((each, known),) = scan(nodes[:1], peek)
    ranks = reduce.ranking(asks, total, lambda n: ranks_of_derived(nodes[0], asks, n, known, each=each))
    k = len(nodes[0].models) if each else 1

    def high(counts: np.ndarray) -> int:
        scan(nodes, lambda merging, own: reduce.count_high_of(merging.before(name).stacked(of), own), counts)
        return total

    def low(first: np.ndarray, counts: np.ndarray, above: np.ndarray) -> None:
        scan(
            nodes,
            lambda merging, *own: reduce.count_low_of(merging.before(name).stacked(of), first, *own),
            counts,
            above,
        )

    values = largest(ranks, k, total, high, low)
    return [values[:, column].tolist() if each else float(values[0, column]) for column in range(len(asks))]
