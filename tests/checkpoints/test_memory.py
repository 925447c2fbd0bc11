from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mergery.checkpoints import open_checkpoint
from mergery.errors import CheckpointError

from .reading import read_bytes, tensor_bytes


def message(source: Any, label: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source, label=label)
    return str(caught.value)


DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.uint8,
    torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_tensors_read_as_they_are(dtype: torch.dtype) -> None:
    tensor = torch.arange(24).to(torch.float32).to(dtype).reshape(4, 6)
    checkpoint = open_checkpoint({"w": tensor, "t": tensor.t(), "scalar": tensor[0, 1], "empty": tensor[:0]})
    assert checkpoint.tensors["t"].shape == (6, 4)
    assert checkpoint.tensors["w"].dtype.torch == str(dtype).removeprefix("torch.")
    assert read_bytes(checkpoint, "w", 3, 17) == tensor_bytes(tensor.reshape(-1)[3:17])
    assert read_bytes(checkpoint, "t") == tensor_bytes(tensor.t())
    assert read_bytes(checkpoint, "t", 5, 11) == tensor_bytes(tensor.t().reshape(-1)[5:11])
    assert read_bytes(checkpoint, "scalar") == tensor_bytes(tensor[0, 1:2])
    assert read_bytes(checkpoint, "empty") == b""


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "f2", "i8", ">i2", "u1", "?", "c8"])
def test_numpy_arrays_read_little_endian(dtype: str) -> None:
    array = (np.arange(24) % 2 if dtype == "?" else np.arange(24)).astype(dtype).reshape(4, 6)
    checkpoint = open_checkpoint({"w": array, "t": array.T, "scalar": np.array(array[0, 1])})
    little = array.astype(array.dtype.newbyteorder("<"))
    assert read_bytes(checkpoint, "w", 3, 17) == little.reshape(-1)[3:17].tobytes()
    assert read_bytes(checkpoint, "t", 1, 24) == np.ascontiguousarray(little.T).reshape(-1)[1:].tobytes()
    assert read_bytes(checkpoint, "scalar") == little[0, 1].tobytes()


def test_values_are_seen_as_they_are_when_read() -> None:
    tensor = torch.zeros(3)
    checkpoint = open_checkpoint({"w": tensor})
    tensor += 1
    assert read_bytes(checkpoint, "w") == tensor_bytes(torch.ones(3))
    read_bytes(checkpoint, "w")
    assert tensor.tolist() == [1, 1, 1]


def test_views_with_pending_conjugation_or_negation_are_resolved() -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    checkpoint = open_checkpoint({"c": tensor.conj(), "n": tensor.conj().imag})
    assert read_bytes(checkpoint, "c") == tensor_bytes(tensor.conj().resolve_conj())
    assert read_bytes(checkpoint, "n") == tensor_bytes(torch.tensor([-2.0, 4.0]))


def test_a_transformers_model_comes_with_its_config(llama: Any) -> None:
    checkpoint = open_checkpoint(llama)
    assert checkpoint.label == "a LlamaForCausalLM"
    assert checkpoint.config["hidden_size"] == 32
    assert list(checkpoint.tensors) == list(llama.state_dict())
    for name, tensor in llama.state_dict().items():
        assert read_bytes(checkpoint, name) == tensor_bytes(tensor)


def test_a_plain_module_has_no_config() -> None:
    layer = torch.nn.Linear(2, 3)
    checkpoint = open_checkpoint(layer, label="head")
    assert checkpoint.label == "head"
    assert not checkpoint.config
    assert checkpoint.files == ()
    assert read_bytes(checkpoint, "weight") == tensor_bytes(layer.weight)


def test_the_fingerprint_is_of_names_shapes_and_values() -> None:
    def mark(**state: torch.Tensor) -> dict[str, Any]:
        return open_checkpoint(state).fingerprint()

    assert mark(w=torch.ones(4)) == mark(w=torch.ones(4))
    assert mark(w=torch.ones(4)) != mark(w=torch.zeros(4))
    assert mark(w=torch.ones(4)) != mark(v=torch.ones(4))
    assert mark(w=torch.ones(4)) != mark(w=torch.ones(2, 2))


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({}, "the state dict is empty"),
        ({1: torch.ones(2)}, "the name 1 is not text"),
        (
            {"w": [1.0]},
            "entry 'w' cannot be read\n  why: it is a list; only torch tensors and numpy arrays are read",
        ),
        (
            {"w": torch.ones(2, device="meta")},
            "entry 'w' cannot be read\n  why: it stands on the meta device",
        ),
        ({"w": torch.eye(2).to_sparse()}, "entry 'w' cannot be read\n  why: it is sparse or quantised"),
        (
            {"w": torch.ones(2, dtype=torch.complex128)},
            "entry 'w' cannot be read\n  why: its dtype is complex128",
        ),
        ({"w": np.array(["a"])}, "entry 'w' cannot be read\n  why: its dtype is str"),
    ],
)
def test_what_is_no_tensor_is_refused(state: dict[Any, Any], expected: str) -> None:
    assert message(state, "mine").startswith(f"mine: {expected}")


def test_an_unknown_name_or_a_wrong_buffer_is_refused() -> None:
    checkpoint = open_checkpoint({"weight": torch.ones(2)}, label="mine")
    with pytest.raises(CheckpointError, match=r"mine: no tensor 'wait' here\n  try: did you mean 'weight'\?"):
        checkpoint.read("wait", 0, 2, np.empty(8, np.uint8))
    with pytest.raises(ValueError, match=r"elements \[0, 3\) are not within 0\.\.2"):
        checkpoint.read("weight", 0, 3, np.empty(12, np.uint8))
