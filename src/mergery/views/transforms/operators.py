"""What a change of coordinates does to one axis of a tensor: an order, signs, and a matrix for each block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Operator:
    """y = T x: x in another order, then each coordinate times its sign, or each block times its matrix.

    order:    int64 [n]: coordinate i of y comes from coordinate `order[i]` of x.
    signs:    float32 [n], 1 or -1; None: no signs.
    matrices: float64 [blocks, size, size] with blocks x size = n: block b of y is `matrices[b]` times block b of the ordered x.
    """

    order: np.ndarray
    signs: np.ndarray | None = None
    matrices: np.ndarray | None = None

    @property
    def moves(self) -> bool:
        """Whether the order is another one."""
        return not np.array_equal(self.order, np.arange(len(self.order)))

    @property
    def plain(self) -> bool:
        """Whether it is an order alone: elements keep their bits."""
        return self.signs is None and self.matrices is None

    @property
    def block(self) -> int:
        """Coordinates that one matrix takes together."""
        return 1 if self.matrices is None else self.matrices.shape[1]

    def dual(self) -> Operator:
        """What is done to an axis that reads the space: the inverse, transposed. Orders and signs are their own."""
        if self.matrices is None:
            return self
        return Operator(self.order, self.signs, np.linalg.inv(self.matrices).transpose(0, 2, 1))

    def unsigned(self) -> Operator:
        """The order alone."""
        return Operator(self.order)

    def columns(self, values: np.ndarray) -> np.ndarray:
        """The last axis of float32 [rows, n], changed."""
        if self.moves:
            values = np.take(values, self.order, axis=1)
        if self.signs is not None:
            values = values * self.signs
        if self.matrices is not None:
            blocks = values.reshape(len(values), -1, self.block).transpose(1, 0, 2).astype(np.float64)
            made = np.matmul(blocks, self.matrices.transpose(0, 2, 1)).transpose(1, 0, 2)
            values = made.reshape(len(values), -1).astype(np.float32)
        return values

    def rows(self, values: np.ndarray) -> np.ndarray:
        """The first axis of float32 [n, columns], changed."""
        return self.finished(values[self.order] if self.moves else values, 0)

    def finished(self, values: np.ndarray, first: int) -> np.ndarray:
        """Rows of whole blocks from `first` on that are in their order already, with signs or matrices."""
        if self.signs is not None:
            values = values * self.signs[first : first + len(values), None]
        if self.matrices is not None:
            own = self.matrices[first // self.block : (first + len(values)) // self.block]
            blocks = values.reshape(len(own), self.block, -1).astype(np.float64)
            values = np.matmul(own, blocks).reshape(len(values), -1).astype(np.float32)
        return values
