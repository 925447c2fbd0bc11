"""What peft's merge makes of a weight, to the bit: the same operations in the same dtypes, on whole matrices.

peft loads adapters of half precision as float32 (`autocast_adapter_dtype`), multiplies the factors, scales, and adds to the
base in place: one rounding to the base's dtype, where the product is not rounded before. It is for embeddings and stacks of
experts, to the base's dtype; for all with `safe_merge`; and to the adapter's own dtype without the autocast. Several adapters
are merged one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mergery.dtypes import DType
from mergery.graph.nodes import Node, Read
from mergery.views.placed import Placed, whole

if TYPE_CHECKING:
    from torch import Tensor

WAYS = {
    "peft": "peft's merge_and_unload()",
    "peft, safe": "peft's merge_and_unload(safe_merge=True)",
    "peft, unchanged": "peft with autocast_adapter_dtype=False",
}
"""The roundings that can be replayed, and what makes them."""


def replayed(base: Node, dtype: DType, placed: Sequence[Placed], way: str, reads: Sequence[Read]) -> Read:
    """The tensor in `dtype`, with all updates merged in; `reads` are of the base and then of each update's sources."""
    weight = _in(whole(reads[0], base), dtype).clone()
    done: list[_Step] = []
    at = 1
    for each in placed:
        step = _step(each, way, weight, reads[at : at + len(each.sources)])
        if step.magnitude is not None:
            for other in reversed(
                done
            ):  # the lengths are those on the base: what was merged is taken out, and put back
                weight = other.undone(weight)
            first = weight.clone()
            step.find_factor(first)
            for other in done:
                if other.magnitude is not None:
                    other.find_factor(first)
                weight = other.merged(weight)
        weight = step.merged(weight)
        done.append(step)
        at += len(each.sources)
    values = weight.float().reshape(-1).numpy()

    def window(start: int, stop: int) -> np.ndarray:
        return values[start:stop]

    return window


@dataclass
class _Step:
    """One update as peft merges it: the product, and for DoRA the factor of each output."""

    delta: Tensor
    magnitude: Tensor | None
    transposed: bool
    factor: Tensor | None = None

    def find_factor(self, base: Tensor) -> None:
        """What each output's weights are multiplied by, from the base without any adapter."""
        import torch

        assert self.magnitude is not None
        flip = self.transposed
        if base.dim() > 2:
            lengths = (base + self.delta).norm(p=2, dim=tuple(range(1, base.dim())), keepdim=True).reshape(-1)
        else:
            lengths = torch.linalg.norm((base.T if flip else base) + (self.delta.T if flip else self.delta), dim=1)
        ones = [1] * (base.dim() - 1)
        self.factor = (self.magnitude / lengths).view(1, -1) if flip else (self.magnitude / lengths).view(-1, *ones)

    def merged(self, weight: Tensor) -> Tensor:
        """The weight with the update, in its dtype."""
        if self.factor is not None:
            return (self.factor * (weight + self.delta)).to(weight.dtype)
        weight += self.delta
        return weight

    def undone(self, weight: Tensor) -> Tensor:
        """The weight without the update."""
        if self.factor is not None:
            return (weight / self.factor - self.delta).to(weight.dtype)
        weight -= self.delta.to(weight.dtype)
        return weight


def _step(placed: Placed, way: str, weight: Tensor, reads: Sequence[Read]) -> _Step:
    update, reading = placed.update, dict(zip(map(id, placed.sources), reads, strict=True))
    down, up = (whole(reading[id(node)], node) for node in (placed.down, placed.up))
    scale = update.scale
    if placed.alpha is not None:
        scale *= float(reading[id(placed.alpha)](0, 1)[0])
    delta = _delta(placed, down, up, weight.shape) * scale
    if way == "peft, unchanged":
        delta = _in(delta, placed.up.dtype)
    if placed.magnitude is not None:
        lengths = whole(reading[id(placed.magnitude)], placed.magnitude).reshape(-1)
        return _Step(delta, lengths, placed.transposed)
    if way == "peft, safe" or update.embedding or update.parameters:
        delta = delta.to(weight.dtype)
    return _Step(delta, None, placed.transposed)


def _delta(placed: Placed, down: Tensor, up: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The product of the factors in the tensor's shape, as peft multiplies them."""
    import torch

    update = placed.update
    if update.experts > 1:
        left = up.reshape(up.shape[0], update.rank, update.experts)
        right = down.reshape(update.experts, update.rank, -1)
        if placed.expert is not None:
            left, right = left[:, :, placed.expert :][:, :, :1], right[placed.expert :][:1]
        if placed.rows is not None:
            left = left[placed.rows[0] : placed.rows[1]]
        return torch.einsum(f"ore,eri->{'eio' if placed.transposed else 'eoi'}", left, right).reshape(shape)
    if len(down.shape) == 2:
        if placed.rows is not None:
            up = up[placed.rows[0] : placed.rows[1]]
        product = up @ down
        return (product.T if placed.transposed else product).reshape(shape)
    if down.shape[2:] == (1, 1):
        return (up.flatten(1) @ down.flatten(1)).reshape(shape)
    convolve = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[down.dim()]
    return convolve(down.transpose(0, 1), up).transpose(0, 1)


def _in(values: Tensor, dtype: DType) -> Tensor:
    import torch

    return values.to(getattr(torch, dtype.torch))
