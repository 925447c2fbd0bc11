from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from mergery.checkpoints import open_checkpoint
from mergery.errors import CheckpointError

from .reading import read_bytes, tensor_bytes

Write = Callable[..., Path]
F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_every_tensor_of_a_model_reads_as_safetensors_reads_it(llama_folder: Path) -> None:
    path = llama_folder / "model.safetensors"
    checkpoint = open_checkpoint(path)
    with safe_open(path, "pt") as reference:
        assert set(checkpoint.tensors) == set(reference.keys())
        for name, info in checkpoint.tensors.items():
            tensor = reference.get_tensor(name)
            assert info.shape == tuple(tensor.shape)
            assert info.dtype.torch == str(tensor.dtype).removeprefix("torch.")
            assert read_bytes(checkpoint, name) == tensor_bytes(tensor)


DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_reads_as_it_was_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.arange(48, dtype=torch.uint8).repeat(8)
    tensor = (tensor % 2).to(torch.bool) if dtype is torch.bool else tensor.view(dtype)
    save_file({"scalar": tensor[0].clone(), "w": tensor, "empty": tensor[:0]}, tmp_path / "x.safetensors")
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert checkpoint.tensors["w"].dtype.torch == str(dtype).removeprefix("torch.")
    assert checkpoint.tensors["scalar"].shape == ()
    assert read_bytes(checkpoint, "w") == tensor_bytes(tensor)
    assert read_bytes(checkpoint, "scalar") == tensor_bytes(tensor[:1])
    assert read_bytes(checkpoint, "empty") == b""


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_slices_read_as_safetensors_slices(llama_folder: Path, data: st.DataObject) -> None:
    path = llama_folder / "model.safetensors"
    checkpoint = open_checkpoint(path)
    name = data.draw(st.sampled_from(list(checkpoint.tensors)))
    start = data.draw(st.integers(0, checkpoint.tensors[name].elements))
    stop = data.draw(st.integers(start, checkpoint.tensors[name].elements))
    with safe_open(path, "pt") as reference:
        expected = tensor_bytes(reference.get_tensor(name).reshape(-1)[start:stop])
    assert read_bytes(checkpoint, name, start, stop) == expected


_names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


@given(shapes=st.dictionaries(_names, st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=6))
@example(shapes={'"quoted" \\ \n': [2], "": [1], "层.0/重み": [3], "../../etc": []})
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_names_and_shapes_that_safetensors_writes_are_read(shapes: dict[str, list[int]], tmp_path: Path) -> None:
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    path = tmp_path / "x.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        assert read_bytes(checkpoint, name) == tensor_bytes(tensor)


@given(noise=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_header_is_refused_or_still_sound(
    noise: list[tuple[int, int]], llama_folder: Path, tmp_path: Path
) -> None:
    content = bytearray((llama_folder / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for place, value in noise:
        content[place % header] = value
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
    except CheckpointError:
        return
    for name in checkpoint.tensors:
        read_bytes(checkpoint, name)
    assert sum(info.nbytes for info in checkpoint.tensors.values()) == len(content) - header


def test_tensors_stand_in_the_order_of_the_file(write_safetensors: Write) -> None:
    header = {
        "late": {"dtype": "U8", "shape": [3], "data_offsets": [4, 7]},
        "empty": {"dtype": "U8", "shape": [0], "data_offsets": [4, 4]},
        "early": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
    }
    checkpoint = open_checkpoint(write_safetensors(header, b"abcdefg"))
    assert list(checkpoint.tensors) == ["early", "empty", "late"]
    assert read_bytes(checkpoint, "late", 1, 3) == b"fg"


def test_four_bit_elements_read_by_whole_bytes(write_safetensors: Write) -> None:
    header = {"w": {"dtype": "F4", "shape": [2, 3], "data_offsets": [0, 3]}}
    checkpoint = open_checkpoint(write_safetensors(header, b"abc"))
    assert checkpoint.tensors["w"].nbytes == 3
    assert read_bytes(checkpoint, "w", 2, 6) == b"bc"
    with pytest.raises(ValueError, match=r"\[1, 3\) of 4 bits do not begin and end on a byte"):
        read_bytes(checkpoint, "w", 1, 3)


def test_threads_share_one_file(llama_folder: Path) -> None:
    checkpoint = open_checkpoint(llama_folder / "model.safetensors")
    expected = {name: read_bytes(checkpoint, name) for name in checkpoint.tensors}
    failed: list[str] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for name in random.permutation(list(expected)).tolist() * 5:
            info = checkpoint.tensors[name]
            start, stop = sorted(random.integers(0, info.elements + 1, 2).tolist())
            if read_bytes(checkpoint, name, start, stop) != expected[name][start * 2 : stop * 2]:
                failed.append(name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for evaluator in threads:
        evaluator.start()
    for evaluator in threads:
        evaluator.join()
    assert not failed


def test_a_range_outside_the_tensor_or_a_wrong_buffer_is_a_mistake_of_the_caller(
    write_safetensors: Write,
) -> None:
    checkpoint = open_checkpoint(write_safetensors({"w": F32}, bytes(8)))
    with pytest.raises(ValueError, match=r"w: elements \[1, 3\) are not within 0\.\.2"):
        checkpoint.read("w", 1, 3, np.empty(8, np.uint8))
    with pytest.raises(ValueError, match="`into` must be 8 contiguous bytes of uint8, not 4 of uint8"):
        checkpoint.read("w", 0, 2, np.empty(4, np.uint8))
    with pytest.raises(ValueError, match="not 8 of float32"):
        checkpoint.read("w", 0, 2, np.empty(2, np.float32))
    with pytest.raises(ValueError, match="contiguous"):
        checkpoint.read("w", 0, 2, np.empty(16, np.uint8)[::2])
    with pytest.raises(CheckpointError, match=r"no tensor 'ww' here\n  try: did you mean 'w'\?"):
        checkpoint.read("ww", 0, 2, np.empty(8, np.uint8))


def test_short_reads_are_continued(write_safetensors: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from mergery.checkpoints import byte_files

    checkpoint = open_checkpoint(write_safetensors({"w": F32}, b"abcdefgh"))
    monkeypatch.setattr(byte_files, "READ_LIMIT", 3)
    assert read_bytes(checkpoint, "w") == b"abcdefgh"


def test_a_file_that_shrinks_while_it_is_read_is_noticed(write_safetensors: Write) -> None:
    path = write_safetensors({"w": F32}, b"abcdefgh")
    size = path.stat().st_size
    checkpoint = open_checkpoint(path)
    with path.open("r+b") as file:
        file.truncate(size - 3)
    with pytest.raises(CheckpointError) as caught:
        read_bytes(checkpoint, "w")
    assert str(caught.value) == (
        f"{path}: the file ended early: of 8 bytes at offset {size - 8}, 5 were there\n"
        f"  why: it held {size} bytes when it was opened and has been changed since\n"
        "  try: do not write to a model while it is being read; start again"
    )


def test_a_device_that_fails_is_reported(write_safetensors: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_safetensors({"w": F32}, b"abcdefgh")
    checkpoint = open_checkpoint(path)

    def fail(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(CheckpointError) as caught:
        read_bytes(checkpoint, "w")
    size = path.stat().st_size
    assert str(caught.value) == (
        f"{path}: reading 8 bytes at offset {size - 8} failed\n  why: Input/output error\n"
        "  try: check the disk or the network mount that holds this file"
    )


def test_a_machine_without_positioned_reads_reads_the_same(
    write_safetensors: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "preadv")
    checkpoint = open_checkpoint(write_safetensors({"w": F32}, b"abcdefgh"))
    assert read_bytes(checkpoint, "w", 1, 2) == b"efgh"


def test_a_closed_checkpoint_is_closed(write_safetensors: Write) -> None:
    with open_checkpoint(write_safetensors({"w": F32}, bytes(8))) as checkpoint:
        assert read_bytes(checkpoint, "w") == bytes(8)
    with pytest.raises(ValueError, match="closed file"):
        read_bytes(checkpoint, "w")
