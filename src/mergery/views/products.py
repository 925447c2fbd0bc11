"""The weight that adapters make of a base's: products of factors added to it, made row block by row block, or replayed as peft
makes it.

Rows are made in blocks that the matrix alone decides, so that no element depends on a window. All is float32. DoRA brings each
output's weights, all that was added so far included, to its magnitude over their length with its own product on the base.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mergery.checkpoints.adapted import ROUNDINGS
from mergery.dtypes import F32, DType
from mergery.graph.nodes import Computed, Node, Read
from mergery.kernels import BLOCK
from mergery.views.placed import Placed, whole
from mergery.views.replay import replayed

if TYPE_CHECKING:
    from torch import Tensor

LEAST_ROWS = 8  # of a block: products of single rows are other sums
MATRIX = 3 * F32.itemsize  # bytes for each element that a replay of peft holds: base, product and result


class Product(NamedTuple):
    """An update as it is read: left [stacks, rows, r] times right [stacks, r, columns], as the tensor is stored."""

    left: Tensor
    right: Tensor
    scale: float
    magnitude: Tensor | None  # of each row, or of each column where the tensor is stored [in, out]
    by_column: bool


def load(placed: Placed, reads: Sequence[Read]) -> Product:
    """Read an update's factors; `reads` are of its sources, in their order."""
    update, reading = placed.update, dict(zip(map(id, placed.sources), reads, strict=True))
    down, up = (whole(reading[id(node)], node) for node in (placed.down, placed.up))
    rank = update.rank if update.experts > 1 else down.shape[0]
    right = down.reshape(update.experts, rank, -1)
    left = up.reshape(up.shape[0], rank, update.experts).permute(2, 0, 1)
    if placed.expert is not None:
        left, right = left[placed.expert :][:1], right[placed.expert :][:1]
    if placed.rows is not None:
        left = left[:, placed.rows[0] : placed.rows[1]]
    scale = update.scale
    if placed.alpha is not None:
        scale *= float(reading[id(placed.alpha)](0, 1)[0])
    magnitude = None if placed.magnitude is None else whole(reading[id(placed.magnitude)], placed.magnitude).reshape(-1)
    if placed.transposed:
        left, right = right.mT, left.mT
    return Product(left.contiguous(), right.contiguous(), scale, magnitude, placed.transposed)


def block_rows(rows: int, columns: int) -> int:
    """Rows that are made together: a power of two, or all."""
    return min(rows, max(LEAST_ROWS, 1 << max(0, (BLOCK // columns).bit_length() - 1)))


class Blocks:
    """A base with products on it, in blocks of whole rows; the last one is kept."""

    def __init__(self, shape: tuple[int, ...], stacks: int, base: Read, products: Sequence[Product]) -> None:
        total = math.prod(shape)
        self.base, self.products = base, products
        self.rows = products[0].left.shape[1]
        self.columns = total // (stacks * self.rows)
        self.height = block_rows(self.rows, self.columns)
        self.starts = range(0, stacks * self.rows, self.rows)
        self.kept: tuple[int, np.ndarray] | None = None
        columns = [each.magnitude is not None and each.by_column for each in products]
        self.by_column = [self._factors(each) if so else None for each, so in zip(products, columns, strict=True)]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop), float32. Blocks that lie in the window whole are made in its own memory."""
        window, begin = np.empty(stop - start, dtype=np.float32), start
        while start < stop:
            stack, row = divmod(start // self.columns, self.rows)
            low = stack * self.rows + row // self.height * self.height
            high = min((stack + 1) * self.rows, low + self.height)
            first, last = low * self.columns, high * self.columns
            end = min(stop, last)
            part = window[start - begin : end - begin]
            if part.size == last - first:
                self._make(stack, low, high, part)
            else:
                if self.kept is None or self.kept[0] != low:
                    self.kept = low, np.empty(last - first, dtype=np.float32)
                    self._make(stack, low, high, self.kept[1])
                part[:] = self.kept[1][start - first : end - first]
            start = end
        return window

    def _stored(self, low: int, high: int) -> Tensor:
        import torch

        values = np.ascontiguousarray(self.base(low * self.columns, high * self.columns))
        return torch.from_numpy(values).reshape(high - low, self.columns)

    def _product(self, product: Product, stack: int, low: int, high: int) -> Tensor:
        first = stack * self.rows
        return (product.left[stack, low - first : high - first] @ product.right[stack]) * product.scale

    def _make(self, stack: int, low: int, high: int, out: np.ndarray) -> None:
        """Rows [low, high) of all stacks, into `out`."""
        import torch

        stored, made = self._stored(low, high), torch.from_numpy(out).reshape(high - low, self.columns)
        result = stored
        for product, by_column in zip(self.products, self.by_column, strict=True):
            if product.magnitude is None:
                first = stack * self.rows
                factors = product.left[stack, low - first : high - first], product.right[stack]
                result = torch.addmm(result, *factors, alpha=product.scale, out=made)
                continue
            change = self._product(product, stack, low, high)
            result = result + change
            if by_column is not None:
                result = result * by_column
            else:
                lengths = (stored + change).double().norm(dim=1)
                result = result * (product.magnitude[low:high] / lengths).float()[:, None]
        if result is not made:
            made.copy_(result)

    def _factors(self, product: Product) -> Tensor:
        """What each column is multiplied by, so that its length is the magnitude: a pass over the base."""
        import torch

        assert product.magnitude is not None
        total = torch.zeros(self.columns, dtype=torch.float64)
        for low in range(0, self.rows, self.height):
            high = min(self.rows, low + self.height)
            total += (self._stored(low, high) + self._product(product, 0, low, high)).double().square().sum(dim=0)
        return (product.magnitude / total.sqrt()).float()


def adapted(name: str, base: Node, dtype: DType, placed: Sequence[Placed], rounding: str) -> Computed:
    """A base's tensor with updates on it. With a `rounding` of peft it is made whole, and rounded to `dtype` as peft does."""
    sources = (base, *[node for each in placed for node in each.sources])
    kinds = ["LoRA" if each.magnitude is None else "DoRA" for each in placed]
    each_said = [
        f"{kind} of rank {each.update.rank} by {each.adapter}" for kind, each in zip(kinds, placed, strict=True)
    ]
    what = " and ".join(each_said)
    factors = F32.itemsize * sum(node.elements for each in placed for node in each.sources)
    low_rank = tuple(each.low_rank for each in placed if each.low_rank is not None)
    if rounding != ROUNDINGS[0]:

        def replay(reads: Sequence[Read]) -> Read:
            return replayed(base, dtype, placed, rounding, reads)

        memory = factors + MATRIX * base.elements
        return Computed(name, base.shape, sources, replay, f"{what}, rounded as by peft", memory, torch=True)

    def read(reads: Sequence[Read]) -> Read:
        products, at = [], 1
        for each in placed:
            products.append(load(each, reads[at : at + len(each.sources)]))
            at += len(each.sources)
        return Blocks(base.shape, placed[0].stacks, reads[0], products).read

    rows = base.shape[0] if len(base.shape) == 2 else 1
    block = max(BLOCK, LEAST_ROWS * base.elements // max(1, rows)) * F32.itemsize
    whole_first = any(each.magnitude is not None and each.transposed for each in placed)
    return Computed(
        name,
        base.shape,
        sources,
        read,
        what,
        2 * factors + 4 * min(block, base.elements * F32.itemsize),
        torch=True,
        streamed=not whole_first,
        base=base if len(low_rank) == len(placed) else None,
        low_rank=low_rank if len(low_rank) == len(placed) else (),
    )


def with_bias(name: str, base: Node, added: Node, scale: float) -> Computed:
    """A module's bias with the scaled bias of an update's second factor added to it."""

    def read(reads: Sequence[Read]) -> Read:
        return lambda start, stop: reads[0](start, stop) + reads[1](start, stop) * np.float32(scale)

    return Computed(name, base.shape, (base, added), read, "the bias of a LoRA", streamed=True)
