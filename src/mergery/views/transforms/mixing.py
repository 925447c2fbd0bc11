"""Soft maps: units that are averages of a model's own. A model under one is another model (arXiv 1910.05653, 2305.03053).

A map says how much of each of a model's own units flows into each new one. What writes to a space is averaged over what flows
into a new unit; what reads it gets each own unit back as the average of where it has gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mergery.dtypes import F32
from mergery.graph.nodes import Computed, Node, Read
from mergery.views.transforms.operators import Operator

WORDS = "a model's tensor under a soft map"


@dataclass(frozen=True, eq=False)
class SoftMap:
    """Of a space, or of its blocks of equal sizes.

    plan: float32 [new, own]: how much of each own unit flows into each new one; below 0 where it is its negative that does.
    mass: float32 [new]: by what the new units are divided; None: by all that flows into each.
    """

    plan: np.ndarray
    mass: np.ndarray | None = None

    def writing(self, *, signed: bool) -> np.ndarray:
        """float64 [new, own], for axes that write: of all new units, the weights of own ones."""
        plan = self.plan.astype(np.float64)
        mass = np.abs(plan).sum(1) if self.mass is None else self.mass.astype(np.float64)
        return (plan if signed else np.abs(plan)) / mass[:, None]

    def reading(self, *, signed: bool) -> np.ndarray:
        """float64 [new, own], for axes that read: of all own units, the weights of new ones."""
        plan = self.plan.astype(np.float64)
        return (plan if signed else np.abs(plan)) / np.abs(plan).sum(0)

    def operator(self, size: int, *, reads: bool, signed: bool) -> Mixing:
        """What is done to an axis of so many units."""
        made = self.reading(signed=signed) if reads else self.writing(signed=signed)
        return Mixing(made, size // made.shape[1])

    @property
    def spread(self) -> float:
        """Of how many own units a new one is made, on average: the exponential of the entropy of its weights."""
        weights = np.abs(self.plan.astype(np.float64))
        shares = weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)
        return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-300))).sum(1)).mean())


@dataclass(frozen=True, eq=False)
class Mixing:
    """y = (W x I) x: block i of y is the sum of the blocks of x, of `block` coordinates each, times `weights[i]`."""

    weights: np.ndarray  # float64 [new, own]
    block: int = 1

    @property
    def count(self) -> int:
        """Coordinates of y."""
        return len(self.weights) * self.block

    def rows(self, values: np.ndarray) -> np.ndarray:
        """The first axis of float32 [own, columns], changed: [new, columns]."""
        blocks = values.reshape(self.weights.shape[1], -1).astype(np.float64)
        return (self.weights @ blocks).astype(np.float32).reshape(self.count, -1)

    def columns(self, values: np.ndarray) -> np.ndarray:
        """The last axis of float32 [rows, own], changed: [rows, new]."""
        if self.block == 1:
            return (values.astype(np.float64) @ self.weights.T).astype(np.float32)
        return np.ascontiguousarray(self.rows(np.ascontiguousarray(values.T)).T)


def mixed(name: str, node: Node, rows: Operator | Mixing | None, columns: Operator | Mixing | None) -> Node:
    """A vector or matrix of which at least one axis is mixed: it is read and made whole."""
    height, width = node.shape if len(node.shape) == 2 else (node.shape[0], 1)
    tall = rows.count if isinstance(rows, Mixing) else height
    wide = columns.count if isinstance(columns, Mixing) else width

    def made(reads: Sequence[Read]) -> Read:
        values = reads[0](0, height * width).reshape(height, width)
        values = values if rows is None else rows.rows(values)
        values = values if columns is None else columns.columns(values)
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        return lambda start, stop: flat[start:stop]

    memory = (height * width + tall * width + tall * wide) * (F32.itemsize + 8)
    shape = (tall, wide) if len(node.shape) == 2 else (tall,)
    return Computed(name, shape, (node,), made, WORDS, memory, dtype=node.dtype)
