"""Coefficients of columns: inner products are added up window by window, and no tensor is held as a whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mergery.checkpoints import open_checkpoint
from mergery.dtypes import F32
from mergery.engine import Merging, Shared, Workspace
from mergery.engine.calling import sum_of_rows
from mergery.graph.nodes import Merged, Stored
from mergery.kernels.devices import find_devices
from mergery.method import Method
from mergery.methods.cosine_add import cosine_add
from mergery.methods.nuslerp import nuslerp


def node(method: Method, models: list[torch.Tensor], base: torch.Tensor | None = None) -> Merged:
    """Two models' tensors in float32, their columns merged by a method."""
    first, second = (stored(str(number), model) for number, model in enumerate(models))
    origin = None if base is None else stored("base", base)
    settings = method.resolve(2, {"scope": "column"})
    return Merged(method, "tensor", ("0", "1"), (first, second), origin, settings, F32, 0)


def stored(model: str, tensor: torch.Tensor) -> Stored:
    checkpoint = open_checkpoint({"tensor": tensor}, label=model)
    return Stored(model, checkpoint, checkpoint.tensors["tensor"])


def merged(node: Merged, chunk: int, device: str = "cpu") -> bytes:
    """Its bytes, made in windows of about so many elements."""
    workspace = Workspace(*find_devices(device))
    merging, size = Merging(node, Shared(chunk=chunk, alone=True), workspace), node.dtype.itemsize
    out = np.empty(node.elements * size, dtype=np.uint8)
    for start, stop in merging.outputs():
        merging.compute(start, stop, out[start * size : stop * size], node.dtype)
    return out.tobytes()


@pytest.mark.parametrize("shape", [(3000, 100), (3000, 1), (5, 70_000)])
def test_bytes_do_not_depend_on_windows(shape):
    base, *models = normal(3, *shape)
    whole = node(nuslerp, models, base)
    assert merged(whole, 1 << 30) == merged(whole, 1 << 16) == merged(whole, 1) == merged(whole, 1, "torch")


def test_each_column_has_its_own_cosine():
    one, two = normal(2, 3000, 100)
    out = np.frombuffer(merged(node(cosine_add, [one, one + two]), 1 << 16), np.float32).reshape(3000, 100)
    share = 1.0 - torch.cosine_similarity(one.double(), (one + two).double(), dim=0).clip(0.0, 1.0)
    expected = (1.0 - share) * one + share * (one + two)
    assert np.abs(out - expected.numpy()).max() < 1e-6 * float(expected.abs().max())


def test_memory_does_not_grow_with_the_rows():
    few, many = (node(cosine_add, list(torch.zeros(2, rows, 256))) for rows in (1 << 15, 1 << 17))
    held = [Merging(each, Shared(alone=True), Workspace()).nbytes(F32) for each in (few, many)]
    assert held[0] == held[1] < 64 << 20


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_rows_are_added_by_halves(rows):
    values = torch.arange(2 * rows * 3, dtype=torch.float64).reshape(2, rows, 3)
    assert torch.equal(sum_of_rows(values), values.sum(1))
