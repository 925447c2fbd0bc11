"""A GGUF file that does not hold together is one clear error, before any value is read."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mergery.checkpoints import open_checkpoint
from mergery.errors import CheckpointError

gguf = pytest.importorskip("gguf", reason="GGUF is read with the package gguf")


def write(
    path: Path, change: Callable[[Any], None] = lambda writer: None, architecture: str = "llama", **numbers: int
) -> Path:
    """A llama of one layer with two matrices; `change` adds what a test is about."""
    writer = gguf.GGUFWriter(path, architecture)
    sizes = {"block_count": 1, "embedding_length": 32, "context_length": 64, "feed_forward_length": 32, **numbers}
    for key, value in sizes.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_uint32(f"{architecture}.attention.head_count", 2)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    change(writer)
    writer.add_tensor("token_embd.weight", np.ones((8, 32), np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", np.ones((8, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refused(path: Path) -> str:
    """The message, with the path left out."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return str(caught.value).replace(str(path), "FILE").replace(str(path.parent), "FOLDER")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "x.gguf")


def test_cut_short_anywhere(path: Path) -> None:
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        text = refused(path)
        assert "truncated" in text or "no GGUF file" in text
        assert "\n  why: " in text


def test_any_byte_changed_is_read_or_refused(path: Path) -> None:
    whole = path.read_bytes()
    dice = random.Random(0)
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 8))):
            damaged[dice.randrange(len(whole) - 1500)] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
        path.write_bytes(damaged)
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError:
            continue
        for name in checkpoint.files:
            checkpoint.file(name)
        for info in checkpoint.tensors.values():
            checkpoint.read(
                info.name, 0, min(4, info.elements), np.empty(min(4, info.elements) * info.dtype.itemsize, np.uint8)
            )
        checkpoint.close()


def test_lengths_beyond_the_file_take_no_memory(path: Path) -> None:
    whole = path.read_bytes()
    for at in (8, 16, 24):  # where the numbers of tensors and entries stand, and the length of the first key
        path.write_bytes(whole[:at] + struct.pack("<Q", 1 << 62) + whole[at + 8 :])
        assert refused(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "FILE: this is no GGUF file\n  why: it begins with b'', not with b'GGUF'"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"GGUF\x00\x00\x00\x03" + bytes(100), "big-endian"),
        (b"GGUF\x01\x00\x00\x00" + bytes(100), "version 1"),
    ],
)
def test_what_is_none(content: bytes, said: str, path: Path) -> None:
    path.write_bytes(content)
    assert said in refused(path)


def test_messages(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    assert refused(write(path, architecture="falcon")).startswith(
        "FILE: GGUF files of the architecture 'falcon' are not read\n"
    )
    assert "general.type is 'adapter'" in refused(write(path, lambda writer: writer.add_type("adapter")))
    text = refused(write(path, lambda writer: writer.add_tensor("blk.0.strange.weight", np.ones((2, 2), np.float32))))
    assert text == (
        "FILE: this GGUF file holds tensors that are not known\n"
        "  why: a llama of transformers has no place for 'blk.0.strange.weight'\n"
        "  try: use the model's safetensors, from which the file was made"
    )
    text = refused(write(path, lambda writer: writer.add_rope_dimension_count(8)))
    assert "8 of 16 dimensions of a head rotate" in text
    text = refused(
        write(
            path,
            lambda writer: (
                writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE) or writer.add_rope_scaling_factor(2.0)
            ),
        )
    )
    assert "stretched in a way that is not known here: 'longrope'" in text


def test_split_files_are_one_model(tmp_path: Path) -> None:
    first, second = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    write(first, lambda writer: writer.add_uint16("split.count", 2))
    other = gguf.GGUFWriter(second, "llama")
    other.add_tensor("blk.0.ffn_down.weight", np.ones((32, 32), np.float32))
    for step in (other.write_header_to_file, other.write_kv_data_to_file, other.write_tensors_to_file, other.close):
        step()
    for each in (first, second):
        names = [name.removeprefix("model.") for name in open_checkpoint(each).tensors]
        assert names == ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "layers.0.mlp.down_proj.weight"]
    second.unlink()
    assert "1 of 2 files of this split GGUF are missing: m-00002-of-00002.gguf" in refused(first)


def test_a_plan_says_what_was_decoded(mergery: Any, tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        kind = gguf.GGMLQuantizationType.Q8_0
        blocks = gguf.quants.quantize(np.ones((32, 32), np.float32), kind)
        writer.add_tensor("blk.0.ffn_down.weight", blocks, raw_dtype=kind)
        writer.add_float32("llama.some_scale", 2.0)

    path = write(tmp_path / "x.gguf", change)
    (tmp_path / "r.yaml").write_text("models: {x: x.gguf}\nmerge: {method: passthrough, models: [x]}\n")
    text = " ".join(mergery("plan", tmp_path / "r.yaml").out.split())
    assert "x: its weights are codes (GGUF, Q8_0), decoded as they are read" in text
    assert "x: the tokenizer (the file has none), llama.some_scale not read" in text
    shown = " ".join(mergery("inspect", path).out.split())
    assert "GGUF, Q8_0" in shown
