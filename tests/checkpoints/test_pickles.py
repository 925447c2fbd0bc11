from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.folder import FileCheckpoint
from mergery.dtypes import BY_TORCH

from .reading import read_bytes, tensor_bytes

# --- reading --------------------------------------------------------------------------------------


def test_a_model_reads_as_torch_reads_it(llama: Any, save: Any) -> None:
    path = save(llama.state_dict(), "pytorch_model.bin")
    checkpoint = open_checkpoint(path)
    reference = torch.load(path, weights_only=True)
    assert list(checkpoint.tensors) == list(reference)
    for name, tensor in reference.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        assert read_bytes(checkpoint, name) == tensor_bytes(tensor)


DTYPES = [
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex64", "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2",
    "float8_e4m3fnuz", "float8_e5m2fnuz",
]  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_known(name: str, tmp_path: Path) -> None:
    tensor = torch.arange(24).to(torch.float32).to(getattr(torch, name)).reshape(2, 3, 4)
    torch.save({"w": tensor}, tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    assert checkpoint.tensors["w"].dtype is BY_TORCH[name]
    assert read_bytes(checkpoint, "w", 5, 19) == tensor_bytes(tensor.reshape(-1)[5:19])


def test_parameters_attributes_and_scalars_are_read(save: Any) -> None:
    marked = torch.nn.Parameter(torch.arange(3.0))
    marked.note = "kept elsewhere"  # type: ignore[attr-defined]
    state = OrderedDict(
        p=torch.nn.Parameter(torch.ones(2)), marked=marked, scalar=torch.tensor(7), empty=torch.ones(0, 3)
    )
    state._metadata = {"version": 1}  # type: ignore[attr-defined]
    checkpoint = open_checkpoint(save(state))
    assert {name: info.shape for name, info in checkpoint.tensors.items()} == {
        "p": (2,), "marked": (3,), "scalar": (), "empty": (0, 3)
    }  # fmt: skip
    assert read_bytes(checkpoint, "marked") == tensor_bytes(torch.arange(3.0))
    assert read_bytes(checkpoint, "scalar") == tensor_bytes(torch.tensor([7]))
    assert read_bytes(checkpoint, "empty") == b""


def test_tied_weights_are_listed_under_both_names(save: Any) -> None:
    shared = torch.arange(6.0)
    checkpoint = open_checkpoint(save({"embed": shared, "head": shared, "tail": shared[4:]}))
    assert list(checkpoint.tensors) == ["embed", "head", "tail"]
    assert read_bytes(checkpoint, "embed") == read_bytes(checkpoint, "head") == tensor_bytes(shared)
    assert read_bytes(checkpoint, "tail") == tensor_bytes(shared[4:])


VIEWS = {
    "transposed": lambda w: w.reshape(20, 36).t(),
    "permuted": lambda w: w.reshape(6, 10, 12).permute(2, 0, 1),
    "channels last": lambda w: w.reshape(3, 4, 6, 10).to(memory_format=torch.channels_last),
    "every third": lambda w: w[5::3],
    "columns": lambda w: w.reshape(20, 36)[:, 7:19],
    "expanded": lambda w: w[3:9].reshape(1, 6).expand(40, 6),
    "one row": lambda w: w.reshape(1, 720)[:, ::2],
}


@pytest.mark.parametrize("view", VIEWS)
@given(data=st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_views_read_in_row_major_order(view: str, save: Any, data: st.DataObject) -> None:
    tensor = VIEWS[view](torch.arange(720, dtype=torch.int16))
    checkpoint = open_checkpoint(save({"w": tensor, "other": torch.ones(4, 4).t()}))
    start = data.draw(st.integers(0, tensor.numel()))
    stop = data.draw(st.integers(start, tensor.numel()))
    assert read_bytes(checkpoint, "w", start, stop) == tensor_bytes(tensor)[start * 2 : stop * 2]
    assert read_bytes(checkpoint, "other") == tensor_bytes(torch.ones(16))


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state_dict", "module", "params"])
def test_a_state_dict_one_level_down_is_found(wrapper: str, save: Any) -> None:
    checkpoint = open_checkpoint(save({wrapper: {"w": torch.ones(2)}}, "x.ckpt"))
    assert isinstance(checkpoint, FileCheckpoint)
    assert list(checkpoint.tensors) == ["w"]
    assert checkpoint.contents.unread == ()


def test_counters_beside_the_state_dict_are_left_aside_and_said_so(save: Any) -> None:
    value = {
        "epoch": 3,
        "state_dict": {"w": torch.ones(2)},
        "sizes": torch.Size([2]),
        "on": torch.device("cuda", 1),
        "tags": {"a"},
    }
    checkpoint = open_checkpoint(save(value))
    assert isinstance(checkpoint, FileCheckpoint)
    assert checkpoint.contents.unread == ("epoch", "sizes", "on", "tags")


def test_a_name_like_a_wrapper_may_be_a_tensor(save: Any) -> None:
    assert list(open_checkpoint(save({"model": torch.ones(2), "params": torch.ones(1)})).tensors) == [
        "model",
        "params",
    ]


def test_torch_is_not_imported(save: Any) -> None:
    path = save({"w": torch.arange(4.0), "t": torch.ones(2, 3).t()})
    program = f"""
import sys, numpy as np
from mergery.checkpoints import open_checkpoint
into = np.empty(16, np.uint8)
open_checkpoint({str(path)!r}).read("w", 0, 4, into)
assert into.view(np.float32).tolist() == [0, 1, 2, 3]
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_fingerprint_is_of_sizes_and_hashes(save: Any) -> None:
    path = save({"w": torch.ones(1000)})
    first = open_checkpoint(path).fingerprint()
    assert open_checkpoint(path).fingerprint() == first
    assert open_checkpoint(save({"w": torch.zeros(1000)})).fingerprint() != first
    assert open_checkpoint(save({"v": torch.ones(1000)})).fingerprint() != first
