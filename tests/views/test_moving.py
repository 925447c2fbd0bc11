"""Matrices whose axes are ordered and signed: the bits are moved, whatever the dtype and the window."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mergery.checkpoints import open_checkpoint
from mergery.dtypes import BF16, F16, F32, F64
from mergery.engine import Shared, Workspace, evaluator
from mergery.graph.nodes import Stored
from mergery.views.transforms import moving
from mergery.views.transforms.applying import changed
from mergery.views.transforms.operators import Operator

DTYPES = {BF16: torch.bfloat16, F16: torch.float16, F32: torch.float32, F64: torch.float64}
CASES = [(rows, columns) for rows in ("stay", "move", "signed") for columns in ("stay", "move", "signed")][2:]


def operator(kind: str, size: int, seed: int) -> Operator | None:
    rng = np.random.default_rng(seed)
    signs = np.where(rng.random(size) < 0.5, -1.0, 1.0).astype(np.float32) if kind == "signed" else None
    return None if kind == "stay" else Operator(rng.permutation(size), signs)


def made(node, dtype, window: int) -> torch.Tensor:
    each, out = evaluator(node, Shared(), Workspace()), np.zeros(node.elements * dtype.itemsize, np.uint8)
    each.prepare()
    for start in range(0, node.elements, window):
        stop = min(node.elements, start + window)
        each.compute(start, stop, out[start * dtype.itemsize : stop * dtype.itemsize], dtype)
    return torch.from_numpy(out).view(DTYPES[dtype]).reshape(node.shape)


@pytest.mark.parametrize("held", [moving.HELD, 1])
@pytest.mark.parametrize("case", CASES, ids=" ".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_elements_change_places_and_signs_and_nothing_else(dtype, case, held, monkeypatch):
    monkeypatch.setattr(moving, "HELD", held)  # 1: the source is read row by row
    matrix = torch.randn(11, 6, generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype])
    matrix[3, 2], matrix[4, 1] = 0.0, torch.inf  # bits: nothing is asked of them
    checkpoint = open_checkpoint({"matrix": matrix})
    rows, columns = operator(case[0], 11, 2), operator(case[1], 6, 3)
    node = changed("matrix", Stored("model", checkpoint, checkpoint.tensors["matrix"]), rows, columns)
    wanted = matrix.clone()
    for axis, each in enumerate((rows, columns)):
        if each is not None:
            wanted = wanted.index_select(axis, torch.from_numpy(each.order))
            if each.signs is not None:
                wanted = wanted * torch.from_numpy(each.signs).to(wanted.dtype).unsqueeze(1 - axis)
    for window in (66, 7, 1):
        found = made(node, dtype, window)
        assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))


def test_in_another_dtype_an_element_is_rounded_where_it_stood():
    matrix = torch.randn(8, 5, generator=torch.Generator().manual_seed(2))
    checkpoint = open_checkpoint({"matrix": matrix})
    node = changed("matrix", Stored("model", checkpoint, checkpoint.tensors["matrix"]), None, operator("signed", 5, 4))
    assert torch.equal(made(node, BF16, 40), made(node, F32, 40).bfloat16())


def test_a_vector_with_signs_is_one_row():
    vector = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float16)
    checkpoint = open_checkpoint({"vector": vector})
    signed = Operator(np.array([2, 0, 1]), np.array([1.0, -1.0, 1.0], np.float32))
    node = changed("vector", Stored("model", checkpoint, checkpoint.tensors["vector"]), signed, None)
    assert made(node, F16, 2).tolist() == [3.0, -1.0, 2.0]
