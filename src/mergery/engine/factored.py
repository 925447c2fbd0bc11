"""Makes a merged tensor whose models are products on its base: of their factors, and of the base window by window."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mergery.dtypes import F32, DType
from mergery.engine import calling as tensors
from mergery.engine.evaluator import Evaluator, evaluator
from mergery.engine.merging import Merging
from mergery.engine.reader import check
from mergery.engine.workspace import Shared, Workspace
from mergery.errors import DataError
from mergery.graph.nodes import Merged, Node, Stored
from mergery.graph.products import Products, Term, products, route_of
from mergery.kernels import random as keyed
from mergery.kernels.devices import CPU

if TYPE_CHECKING:
    from torch import Tensor

    from mergery.kernels.spectral import Factored

BLOCK = 1 << 18  # elements that are multiplied out at once
WIDE = 8  # bytes of a float64
LIBRARY = 32 << 20  # bytes that linear algebra itself holds, once it is used: more than what small cores take


class Factoring(Evaluator[Merged]):
    """Evaluates a merge of products: the method is given their factors, and what it makes of them is added to the base.

    It is multiplied out in blocks of whole stored rows, which the shape alone decides; so no element depends on a window. The
    sum with the base is float64, and rounded once.
    """

    def __init__(self, node: Merged, made: Products, shared: Shared, workspace: Workspace, level: int = 0) -> None:
        self.products, self.nodes = made, made.nodes
        super().__init__(node, shared, workspace, level)
        self.keys = np.array([keyed.key(shared.seed, node.name, model) for model in node.models], dtype=np.uint64)
        self.values: dict[int, Tensor] = {}  # factors and scalars, by the node's id
        self.merged: tuple[int, Tensor | Factored] | None = None  # of one matrix, as it is stored
        self.block: tuple[int, Tensor] | None = None  # of that matrix, the last one multiplied out, by its first row

    @property
    def sources(self) -> tuple[Node, ...]:
        """See `Evaluator.sources`."""
        assert self.node.base is not None
        return (self.node.base, *self.nodes)

    @property
    def height(self) -> int:
        """Stored rows of a block."""
        assert self.node.matrices is not None
        return max(1, min(self.node.matrices.rows, BLOCK // max(1, self.node.matrices.columns)))

    def outputs(self) -> Iterator[tuple[int, int]]:
        """See `Evaluator.outputs`: whole blocks, as many as fit."""
        assert self.node.matrices is not None
        block = self.height * self.node.matrices.columns
        chunk = self.workspace.device.window(self.shared.chunk, len(self.sources))
        step = max(block, chunk // block * block)
        for start in range(0, self.node.elements, step):
            yield start, min(self.node.elements, start + step)

    def held(self, size: int, dtype: DType) -> int:
        """See `Evaluator.held`."""
        start, stop = next(self.outputs(), (0, 0))
        size = max(size, stop - start)
        base, *factors = zip(self.inner, self.sources, strict=True)
        own = sum(inner.held(row.elements, F32) + row.elements * F32.itemsize for inner, row in factors)
        on_device = self.temporaries if self.workspace.device == CPU else 0
        return own + on_device + size * base[1].dtype.itemsize + base[0].held(size, base[1].dtype)

    @property
    def temporaries(self) -> int:
        """Bytes of intermediate tensors, on the device."""
        route = route_of(self.node)
        return LIBRARY + WIDE * 3 * BLOCK + (route.workspace if route is not None else 0)

    # --- the merged product -------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read all factors."""
        import torch

        if self.values:
            return
        super().prepare()
        for inner, node in zip(self.inner[1:], self.nodes, strict=True):
            values = np.empty(node.elements, dtype=np.float32)
            inner.compute(0, node.elements, values.view(np.uint8), F32)
            if not np.isfinite(values).all():
                name = f"tensor {node.info.name!r} of model {node.model!r}" if isinstance(node, Stored) else "a factor"
                raise DataError(f"{name} holds NaN or infinity", hint="that adapter is damaged; use another one")
            self.values[id(node)] = torch.from_numpy(values).reshape(node.shape)

    def result(self, number: int) -> Tensor | Factored:
        """What is added to one of the base's matrices, as it is stored: float64, as factors where the method gives them."""
        import torch

        from mergery.kernels.spectral import Factored

        if self.merged is not None and self.merged[0] == number:
            return self.merged[1]
        self.merged = self.block = None
        node, each = self.node, self.node.matrices
        assert each is not None
        place = self.workspace.device.place or torch.device("cpu")
        deltas = [factored(self.values, own, each.sides, each.transposed) for own in self.products.matrices[number]]
        if not any(delta.rank for delta in deltas):
            deltas[0] = Factored(torch.zeros(each.sides[0], 1), torch.zeros(1, each.sides[1]))
        deltas = [Factored(delta.left.to(place), delta.right.to(place)) for delta in deltas]
        made = tensors.call_factored(node, deltas, self.keys, number, place)
        if isinstance(made, Factored):
            left, right = made.left.double(), made.right.double()
            made = Factored(right.mT, left.mT) if each.transposed else Factored(left, right)
            made = Factored(made.left.contiguous(), made.right.contiguous())
        else:
            made = (made.mT if each.transposed else made).double().contiguous()
        self.merged = number, made
        return made

    def change(self, number: int, low: int, high: int) -> Tensor:
        """Stored rows [low, high), a whole block, of what is added to a matrix: float64."""
        from mergery.kernels.spectral import Factored

        made = self.result(number)
        if not isinstance(made, Factored):
            return made[low:high]
        if self.block is None or self.block[0] != low:
            self.block = low, made.left[low:high] @ made.right
        return self.block[1]

    # --- on the base --------------------------------------------------------------------------------------------------

    def compute(self, start: int, stop: int, out: np.ndarray, dtype: DType) -> None:
        """See `Evaluator.compute`."""
        import torch

        self.prepare()
        each, base = self.node.matrices, self.sources[0]
        assert each is not None
        raw = self.workspace.row(self.level, "raw", (stop - start) * base.dtype.itemsize)
        self.inner[0].compute(start, stop, raw, base.dtype)
        place = self.workspace.device.place or "cpu"
        stored = torch.from_numpy(raw).view(getattr(torch, base.dtype.torch)).to(place).to(torch.float32)
        if not stored.isfinite().all():
            check(self.node, 1, F32)
        at = start
        while at < stop:
            number, inside = divmod(at, each.rows * each.columns)
            row = inside // each.columns // self.height * self.height
            last = min(each.rows, row + self.height)
            first = (number * each.rows + row) * each.columns
            end = min(stop, (number * each.rows + last) * each.columns)
            added = self.change(number, row, last).reshape(-1)[at - first : end - first]
            values = stored[at - start : end - start].double() + added
            tensors.store(self.node, values, out[(at - start) * dtype.itemsize : (end - start) * dtype.itemsize], dtype)
            at = end


def factored(values: dict[int, Tensor], terms: tuple[Term, ...], sides: tuple[int, int], transposed: bool) -> Factored:
    """One model's task vector [out, in] as factors, float64. `transposed` says that the matrix is stored [in, out]."""
    import torch

    from mergery.kernels.spectral import Factored

    lefts, rights = [torch.zeros(sides[0], 0, dtype=torch.float64)], [torch.zeros(0, sides[1], dtype=torch.float64)]
    for term in terms:
        left, right = of_term(values, term)
        if term.factors.transposed != transposed:  # stored one way, and read the other
            left, right = right.mT, left.mT
        lefts.append(left)
        rights.append(right)
    return Factored(torch.cat(lefts, dim=1), torch.cat(rights))


def of_term(values: dict[int, Tensor], term: Term) -> tuple[Tensor, Tensor]:
    """A product's factors [out, r] and [r, in], as the adapter has them, float64: of the rows and columns that are merged."""
    import torch

    factors = term.factors
    left, right = values[id(factors.left)], values[id(factors.right)]
    if factors.experts is not None:
        left = left[:, term.expert :: factors.experts.of]
        right = right[term.expert * factors.rank : (term.expert + 1) * factors.rank]
        if factors.experts.rows is not None:
            left = left[slice(*factors.experts.rows)]
    outputs, inputs = (term.columns, term.rows) if factors.transposed else (term.rows, term.columns)
    if outputs is not None:
        left = left[torch.from_numpy(outputs)]
    if inputs is not None:
        right = right[:, torch.from_numpy(inputs)]
    scale = factors.scale * (float(values[id(factors.alpha)]) if factors.alpha is not None else 1.0)
    return left.double() * scale, right.double()


def merging(node: Merged, shared: Shared, workspace: Workspace, level: int = 0) -> Merging | Factoring:
    """What makes a merged tensor: of factors, where it is a merge of products."""
    made = products(node)
    return Merging(node, shared, workspace, level) if made is None else Factoring(node, made, shared, workspace, level)


evaluator.register(Merged, merging)
