"""Maps between the spaces of two models, and what a change of weights is when it is carried through them.

A map T (old, new) has orthonormal rows or columns, whichever are fewer, times a number: a row x of the old space is x T in the
new one. A change D of a matrix [out, in] becomes T_out' D T_in and a bias b becomes b T. A gain g of a norm stands on a
diagonal; the one of T' diag(g) T is taken, with the squares of each column of T brought to a sum of 1. Spaces may be in blocks,
such as heads, each with a map of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

FLOOR = 1e-6  # of the largest eigenvalue: smaller ones are not whitened further


class Block(NamedTuple):
    """The map of some coordinates of the old space to some of the new one."""

    old: Tensor  # indices, int64
    new: Tensor
    map: Tensor  # (old, new), float64


Side = tuple[Block, ...]
"""A space's map: its blocks, which share no coordinate."""


def one_block(map: Tensor) -> Side:
    """A map of whole spaces."""
    return (Block(torch.arange(map.shape[0]), torch.arange(map.shape[1]), map),)


def identity(size: int) -> Side:
    """The map of a space to itself."""
    return one_block(torch.eye(size, dtype=torch.float64))


def whole(side: Side, shape: tuple[int, int]) -> Tensor:
    """A map in one matrix (old, new), float64; zeros between blocks."""
    found = torch.zeros(shape, dtype=torch.float64)
    for block in side:
        found[block.old[:, None], block.new[None, :]] = block.map
    return found


# --- making maps --------------------------------------------------------------------------------------------------------


def polar(matrix: Tensor) -> Tensor:
    """The orthogonal factor of (a, b): orthonormal rows or columns, whichever are fewer; float64.

    It is the T that makes <matrix, T> largest.
    """
    left, _, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    return left @ right


def unit(matrix: Tensor) -> Tensor:
    """A matrix times a number, so that the mean square of its singular values is 1; zeros stay as they are."""
    size = matrix.norm() / min(matrix.shape) ** 0.5
    return matrix / size if float(size) > 0.0 else matrix


def whitened(cross: Tensor, old: Tensor, new: Tensor, power: float) -> Tensor:
    """C_old^-w C C_new^-w of a cross-moment (a, b) and the second moments of both sides."""
    return _root(old, -power) @ cross @ _root(new, -power)


def _root(moment: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eigh((moment + moment.T) / 2)
    values = values.clamp(min=FLOOR * float(values[-1].clamp(min=1e-300)))
    return (vectors * values.pow(power)) @ vectors.T


@dataclass
class Moments:
    """What is known of one space of two models on the same tokens: sums over tokens, float64."""

    cross: Any = None  # X_old' X_new (old, new)
    old: Any = None  # X_old' X_old
    new: Any = None  # X_new' X_new
    sums: list[Any] = field(default_factory=lambda: [0.0, 0.0])  # of X_old and X_new
    tokens: int = 0

    def add(self, old: Tensor, new: Tensor) -> None:
        """Take rows (tokens, width) of both."""
        old, new = old.double(), new.double()
        self.tokens += len(new)
        self.sums = [self.sums[0] + old.sum(0), self.sums[1] + new.sum(0)]
        if self.cross is None:
            self.cross, self.old, self.new = old.T @ new, old.T @ old, new.T @ new
            return
        self.cross.add_(old.T @ new)
        self.old.add_(old.T @ old)
        self.new.add_(new.T @ new)

    def through(self, old: Tensor, new: Tensor, biases: Sequence[Tensor | None]) -> Moments:
        """The moments behind matrices [out, in] of both models, and their biases."""
        a, b = old.double(), new.double()
        found = Moments(a @ self.cross @ b.T, a @ self.old @ a.T, b @ self.new @ b.T, tokens=self.tokens)
        found.sums = [a @ self.sums[0], b @ self.sums[1]]
        if biases[0] is not None and biases[1] is not None:
            of_old, of_new = biases[0].double(), biases[1].double()
            for square, one, other in ((found.cross, 0, 1), (found.old, 0, 0), (found.new, 1, 1)):
                first, second = (of_old, of_new)[one], (of_old, of_new)[other]
                square += torch.outer(found.sums[one], second) + torch.outer(first, found.sums[other])
                square += self.tokens * torch.outer(first, second)
            found.sums = [found.sums[0] + self.tokens * of_old, found.sums[1] + self.tokens * of_new]
        return found


class Rule(NamedTuple):
    """How maps are made of what is known.

    ridge:  how much of a prior is added to the moments, so that directions which the texts never take follow the weights.
    whiten: the power by which moments are whitened.
    sizes:  whether a map also brings what it carries to the size that the new space has.
    """

    ridge: float
    whiten: float
    sizes: bool


def map_of(
    moments: Moments | None, prior: Tensor, blocks: Sequence[tuple[Tensor, Tensor]], rule: Rule, *, back: bool = False
) -> Side:
    """The map of a space, block by block: the polar factor of the cross-moment, and of a prior (old, new) where that is none.

    back: whether the new model's rows are to be taken back to the old one's, as a matrix's inputs are: sizes are then
    those of the way back. Without texts, coordinates count as equally large in both models.
    """
    found: list[Block] = []
    for old, new in blocks:
        matrix, size = unit(prior[old[:, None], new[None, :]]), (len(new) / len(old)) ** 0.5
        if moments is not None and moments.cross is not None:
            cross = moments.cross[old[:, None], new[None, :]]
            squares = (moments.old[old[:, None], old[None, :]], moments.new[new[:, None], new[None, :]])
            traces = [float(each.diagonal().sum()) for each in squares]
            size = (traces[1] / traces[0]) ** 0.5 if min(traces) > 0.0 else size
            if rule.whiten > 0.0:
                cross = whitened(cross, *squares, rule.whiten)
            matrix = unit(cross) + rule.ridge * matrix
        factor = (1.0 / size if back else size) if rule.sizes else 1.0
        found.append(Block(old, new, factor * polar(matrix)))
    return tuple(found)


# --- carrying changes through them ----------------------------------------------------------------------------------------


def carried(change: Tensor, out: Side, into: Side, shape: Sequence[int]) -> Tensor:
    """A change of a matrix [out, in] in the new model: T_out' D T_in, float64 of the given shape."""
    change, found = change.double(), torch.zeros(tuple(shape), dtype=torch.float64)
    for rows in out:
        part = rows.map.T @ change[rows.old]
        for columns in into:
            found[rows.new[:, None], columns.new[None, :]] = part[:, columns.old] @ columns.map
    return found


def carried_rows(change: Tensor, into: Side, width: int) -> Tensor:
    """Changes of vectors (any, old) of a space: D T."""
    found = torch.zeros(len(change), width, dtype=torch.float64)
    for block in into:
        found[:, block.new] = change[:, block.old].double() @ block.map
    return found


def carried_gains(change: Tensor, side: Side, width: int) -> Tensor:
    """A change of a norm's gains: for each channel, the mean of those of the old space by the squares of the map."""
    found = torch.zeros(width, dtype=torch.float64)
    for block in side:
        shares = block.map.square()
        found[block.new] = (shares / shares.sum(0).clamp(min=1e-300)).T @ change[block.old].double()
    return found
