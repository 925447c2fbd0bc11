"""What an adapter changes of a model's modules: matrices and what they are in the base, and the products that models add to it.

The experts of a layer are matrices of one module, with factors in one tensor for all. Each is made by itself; gate and up of
an expert are one matrix, as they are to the module, where they are merged alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mergery.graph.nodes import LowRank, Merged, Node, Read
from mergery.views.factored import low_rank_of, on_deltas, unchanged

if TYPE_CHECKING:
    from torch import Tensor

    from mergery.kernels.low_rank import Pair

Reads = Mapping[int, Read]  # by the node's id


class Piece(NamedTuple):
    """Outputs [low, high) of a matrix: a node and its base; `number` is the matrix's in a stack, where they are stacks."""

    node: Node
    base: Node
    low: int
    high: int
    number: int | None = None


@dataclass(frozen=True, eq=False)
class Change:
    """What an adapter changes of one module: matrices [out, in], one or those of all experts, in pieces.

    `turned` says that they are stored [in, out], `stacked` that they are experts.
    """

    name: str
    matrices: tuple[tuple[Piece, ...], ...]
    sides: tuple[int, int]
    turned: bool = False
    stacked: bool = False

    @property
    def first(self) -> Node:
        """The node that says how all are merged."""
        return self.matrices[0][0].node

    @property
    def pieces(self) -> Iterator[Piece]:
        return (piece for matrix in self.matrices for piece in matrix)

    @property
    def elements(self) -> int:
        return len(self.matrices) * math.prod(self.sides)

    @property
    def unchanged(self) -> bool:
        """Whether all of it is as in the base."""
        return all(unchanged(piece.node, piece.base) for piece in self.pieces)

    @cached_property
    def models(self) -> tuple[str, ...]:
        """What is merged, where it is one merge for all; else empty."""
        return self.first.models if isinstance(self.first, Merged) and self.alike else ()

    @cached_property
    def alike(self) -> bool:
        """Whether all pieces are merged by one method, of the same models, with the same settings."""
        first = self.first
        if not isinstance(first, Merged):
            return not any(isinstance(piece.node, Merged) for piece in self.pieces)
        said = (first.method, first.models, first.settings, first.merge, first.base is None)
        return all(
            isinstance(node := piece.node, Merged)
            and (node.method, node.models, node.settings, node.merge, node.base is None) == said
            for piece in self.pieces
        )

    @property
    def sources(self) -> tuple[Node, ...]:
        """All that the difference is made of."""
        return distinct(node for piece in self.pieces for node in (piece.node, piece.base))

    def matrix(self, number: int, of: Callable[[Piece], Read]) -> Tensor:
        """One of the matrices, [out, in] in float64, of what `of` gives for its pieces."""
        import torch

        found = []
        for piece in self.matrices[number]:
            rows = piece.high - piece.low
            size = rows * self.sides[1]
            start = (piece.number or 0) * size
            values = torch.from_numpy(np.ascontiguousarray(of(piece)(start, start + size))).double()
            found.append(values.reshape(-1, rows).mT if self.turned else values.reshape(rows, -1))
        return torch.cat(found) if len(found) > 1 else found[0]

    def differences(self, reads: Reads) -> Iterator[tuple[Tensor, float]]:
        """Each matrix minus its base, and the length of the base."""
        for number in range(len(self.matrices)):
            theirs = self.matrix(number, lambda piece: reads[id(piece.base)])
            yield self.matrix(number, lambda piece: reads[id(piece.node)]) - theirs, float(theirs.norm())

    @cached_property
    def products(self) -> tuple[tuple[Product, ...], ...] | None:
        """For each matrix each model's product on the base; None where the merge is not one of products alone."""
        if not self.alike or (isinstance(self.first, Merged) and self.first.statistics and self.stacked):
            return None
        found = []
        for matrix in self.matrices:
            products = [Product([], self.sides) for _ in self._inputs(self.first)]
            for piece in matrix:
                if not on_deltas(piece.node, piece.base):
                    return None
                for product, own in zip(products, self._inputs(piece.node), strict=True):
                    factors = low_rank_of(own, piece.base)
                    if factors is None:
                        return None
                    product.parts.extend((each, piece) for each in factors)
            found.append(tuple(products))
        return tuple(found)

    def input(self, place: int, reads: Reads) -> Callable[[Piece], Read]:
        """How one of the merged models' pieces are read."""
        return lambda piece: reads[id(self._inputs(piece.node)[place])]

    @staticmethod
    def _inputs(node: Node) -> tuple[Node, ...]:
        return node.inputs if isinstance(node, Merged) else (node,)


@dataclass(frozen=True)
class Product:
    """What one model adds to a matrix: factors, each for the outputs of a piece."""

    parts: list[tuple[LowRank, Piece]]
    sides: tuple[int, int]

    def groups(self) -> list[list[tuple[LowRank, Piece]]]:
        """Those that share their second factor: of an expert's gate and up, in an adapter that has them as one."""
        found: dict[tuple[int, int | None, float], list[tuple[LowRank, Piece]]] = {}
        for factors, piece in self.parts:
            number = factors.experts.number if factors.experts and factors.experts.number is not None else piece.number
            key = (id(factors.right), number, factors.scale)
            group = found.setdefault(key, [])
            if any(low < piece.high and piece.low < high for _, (_, _, low, high, _) in group):
                found[id(factors), None, 0.0] = [(factors, piece)]  # the same adapter twice
            else:
                group.append((factors, piece))
        return list(found.values())

    @cached_property
    def rank(self) -> int:
        return sum(group[0][0].rank for group in self.groups())

    @property
    def nodes(self) -> Iterator[Node]:
        """All its factors and scalars."""
        for each, _ in self.parts:
            yield from (node for node in (each.left, each.right, each.alpha) if node is not None)

    def pair(self, values: Mapping[int, Tensor]) -> Pair:
        """Both factors in float64; `values` are those of all nodes."""
        import torch

        from mergery.kernels.low_rank import Pair

        lefts = [torch.zeros(self.sides[0], 0, dtype=torch.float64)]
        rights = [torch.zeros(0, self.sides[1], dtype=torch.float64)]
        for group in self.groups():
            left = torch.zeros(self.sides[0], group[0][0].rank, dtype=torch.float64)
            for factors, piece in group:
                scale = factors.scale * (float(values[id(factors.alpha)]) if factors.alpha is not None else 1.0)
                left[piece.low : piece.high] = _of_one(factors, piece, values)[0] * scale
            lefts.append(left)
            rights.append(_of_one(*group[0], values)[1])
        return Pair(torch.cat(lefts, dim=1), torch.cat(rights))


def _of_one(factors: LowRank, piece: Piece, values: Mapping[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Left and right factor for one matrix, float64."""
    left, right, experts = values[id(factors.left)], values[id(factors.right)], factors.experts
    if experts is not None:
        number = experts.number if experts.number is not None else piece.number or 0
        left = left[:, number :: experts.of]
        right = right[number * factors.rank : (number + 1) * factors.rank]
        if experts.rows is not None:
            left = left[experts.rows[0] : experts.rows[1]]
    return left.double(), right.double()


def distinct(nodes: Iterator[Node] | Sequence[Node]) -> tuple[Node, ...]:
    """Each node once, in order."""
    return tuple({id(node): node for node in nodes}.values())
