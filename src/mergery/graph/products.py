"""Merges of products: where every input of a merge is its base with products of small factors added, such as adapters.

A method on matrices can be given the factors in place of differences of matrices; what it makes costs the rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mergery.graph.equality import same_base, same_ranges
from mergery.graph.nodes import Computed, Gathered, LowRank, Merged, Node
from mergery.method.routing import Route

Places = np.ndarray | None  # int64 numbers of rows or columns; None is all of them, in their order


class Term(NamedTuple):
    """A product that one model adds to one matrix: factors, the place of the matrix in the stack that they are of, and which
    of its stored rows and columns are merged.
    """

    factors: LowRank
    number: int = 0
    rows: Places = None
    columns: Places = None

    @property
    def nodes(self) -> Iterator[Node]:
        """Both factors and the scalar, where there is one."""
        yield from (each for each in (self.factors.left, self.factors.right, self.factors.alpha) if each is not None)

    @property
    def expert(self) -> int:
        """Which of the experts that share the factors the product is of."""
        experts = self.factors.experts
        return self.number if experts is None or experts.number is None else experts.number


@dataclass(frozen=True)
class Products:
    """What the models of a merge add to its base: for each matrix and each model so many products."""

    matrices: tuple[tuple[tuple[Term, ...], ...], ...]

    @property
    def rank(self) -> int:
        """The ranks of all models' products together, of the matrix with most; at least 1."""
        return max(1, *(sum(term.factors.rank for own in each for term in own) for each in self.matrices))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All factors and scalars, each once."""
        found = (node for each in self.matrices for own in each for term in own for node in term.nodes)
        return tuple({id(node): node for node in found}.values())


def products(node: Merged) -> Products | None:
    """The products of which a merge is made; None where it is made of whole matrices.

    So it is where a model is more than a product on the base, where the method does not take factors, or would multiply them
    out, as their ranks add up to the smaller side.
    """
    method, matrices = node.method, node.matrices
    if node.base is None or matrices is None or not method.takes_factors or len(node.shape) not in (2, 3):
        return None
    found: list[tuple[tuple[Term, ...], ...]] = []
    for number in range(matrices.count):
        models = [terms(own, node.base, number) for own in node.inputs]
        if any(each is None for each in models):
            return None
        found.append(tuple(each for each in models if each is not None))
    made = Products(tuple(found))
    return made if _factored(node, made) is not None else None


def route_of(node: Merged) -> Route | None:
    """How a method on matrices makes all of a merged tensor; the workspace is that of one call."""
    method, matrices = node.method, node.matrices
    made = products(node)
    route = None if made is None else _factored(node, made)
    if route is not None and matrices is not None:
        return replace(route, operations=matrices.count * route.operations)
    if method.routing is None or matrices is None:
        return None
    route = method.routing(len(node.inputs), *matrices.sides, node.settings)
    return Route(route.words, matrices.count * route.operations, matrices.together * route.workspace)


def _factored(node: Merged, made: Products) -> Route | None:
    """The route of one matrix by its factors; None where the method multiplies them out."""
    matrices, method = node.matrices, node.method
    assert matrices is not None
    if method.factored is None or made.rank + 1 >= min(matrices.sides):
        return None
    return method.factored(len(node.inputs), *matrices.sides, made.rank, node.settings)


def terms(node: Node, base: Node, number: int) -> tuple[Term, ...] | None:
    """The products that a node adds to a base in one of its matrices; None where it is more than that, such as DoRA."""
    if same_base(node, base):
        return ()
    if isinstance(node, Computed) and node.base is not None and same_base(node.base, base):
        return tuple(Term(each, number) for each in node.low_rank)
    if not (isinstance(node, Gathered) and isinstance(base, Gathered) and same_ranges(node, base)):
        return None
    part = part_of(node, number)
    if part is None or len(node.sources) != len(base.sources):
        return None
    source, place, rows, columns = part
    found = terms(node.sources[source], base.sources[source], place)
    if found is None:
        return None
    return tuple(each._replace(rows=chosen(each.rows, rows), columns=chosen(each.columns, columns)) for each in found)


def chosen(outer: Places, inner: Places) -> Places:
    """The places that `inner` names among those that `outer` does."""
    return inner if outer is None else outer if inner is None else outer[inner]


def part_of(node: Gathered, number: int) -> tuple[int, int, Places, Places] | None:
    """Where one of a gathered tensor's matrices comes from, if it is rows, or columns of rows, of one matrix: the source, the
    matrix's place in it, rows and columns.
    """
    height, width = node.shape[-2:]
    size = height * width
    ends = np.cumsum(node.lengths)
    first, last = np.searchsorted(ends, (number * size, (number + 1) * size - 1), side="right")
    which = node.which[first : last + 1]
    begins = ends[first : last + 1] - node.lengths[first : last + 1]
    low, high = np.maximum(begins, number * size), np.minimum(ends[first : last + 1], (number + 1) * size)
    starts, lengths = node.starts[first : last + 1] + low - begins, high - low
    if not len(which) or which[0] < 0 or (which != which[0]).any():
        return None
    shape = node.sources[int(which[0])].shape
    if len(shape) not in (2, 3):
        return None
    tall, wide = shape[-2:]
    if width == wide and not (starts % wide).any() and not (lengths % wide).any():
        rows, columns = _joined(starts // wide, lengths // wide), None
    elif len(starts) % height == 0 and (lengths.reshape(height, -1) == lengths[: len(starts) // height]).all():
        lines, places = np.divmod(starts.reshape(height, -1), wide)
        if (lines != lines[:, :1]).any() or (places != places[:1]).any():
            return None
        rows, columns = lines[:, 0], _joined(places[0], lengths[: places.shape[1]])
        if len(columns) != width or columns.max() >= wide:
            return None
    else:
        return None
    place = int(rows[0]) // tall
    if (rows // tall != place).any():
        return None
    rows = rows - place * tall
    whole = len(rows) == tall and bool((rows == np.arange(tall)).all())
    return int(which[0]), place, None if whole else rows, columns


def _joined(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers of ranges, end to end: int64."""
    return np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])
