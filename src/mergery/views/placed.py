"""An adapter's update at the tensor that it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mergery.checkpoints.lora import Update
from mergery.graph.nodes import LowRank, Node, OfExperts, Read

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Placed:
    """An update at the tensor that it changes, and the nodes of its factors.

    expert:     which expert's matrix the tensor is, where the update is of all; None where it is the whole stack.
    rows:       which of the update's outputs the tensor has.
    transposed: whether the tensor is stored [in, out].
    """

    update: Update
    adapter: str
    down: Node
    up: Node
    alpha: Node | None = None
    magnitude: Node | None = None
    expert: int | None = None
    rows: tuple[int, int] | None = None
    transposed: bool = False

    @property
    def sources(self) -> tuple[Node, ...]:
        return tuple(node for node in (self.down, self.up, self.alpha, self.magnitude) if node is not None)

    @property
    def stacks(self) -> int:
        """How many matrices the tensor is."""
        return self.update.experts if self.expert is None else 1

    @property
    def low_rank(self) -> LowRank | None:
        """The factors, where the tensor is the base and their product: not for DoRA and convolutions."""
        if self.magnitude is not None or len(self.down.shape) != 2:
            return None
        experts = OfExperts(self.update.experts, self.expert, self.rows) if self.update.experts > 1 else None
        return LowRank(self.up, self.down, self.update.scale, self.alpha, self.transposed, experts)


def whole(read: Read, node: Node) -> Tensor:
    """A tensor, float32 of its shape."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(read(0, node.elements))).reshape(node.shape)
