"""Every type of block is decoded as the package `gguf` decodes it, and a slice of a tensor is the same slice of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.gguf.file import can_decode

gguf = pytest.importorskip("gguf", reason="GGUF is read with the package gguf")
Type = gguf.GGMLQuantizationType

BLOCKS = [kind for kind, (elements, _) in gguf.GGML_QUANT_SIZES.items() if elements > 1 and can_decode(kind)]
ROWS, COLUMNS = 8, 512


def plain_file(path: Path, kind: object, data: np.ndarray) -> Path:
    """A llama of one layer that has one matrix, in blocks of some type."""
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, 1), (writer.add_embedding_length, 64), (writer.add_context_length, 64),
        (writer.add_feed_forward_length, 64), (writer.add_head_count, 2), (writer.add_layer_norm_rms_eps, 1e-5),
    ):  # fmt: skip
        add(value)
    writer.add_tensor("token_embd.weight", np.ones((8, 64), np.float32))
    writer.add_tensor("blk.0.ffn_up.weight", data, raw_dtype=kind)
    writer.add_tensor("blk.0.attn_q.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks(kind: object) -> np.ndarray:
    """Random blocks, as bytes [rows, bytes of a row]: whatever they hold is a number, or not, as the decoder says."""
    elements, nbytes = gguf.GGML_QUANT_SIZES[kind]
    return np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS // elements * nbytes), np.uint8)


@pytest.mark.parametrize("kind", BLOCKS, ids=lambda kind: kind.name)
def test_decoded_by_slice(kind: object, tmp_path: Path) -> None:
    data = blocks(kind)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(-1)
    with open_checkpoint(plain_file(tmp_path / "x.gguf", kind, data)) as checkpoint:
        info = checkpoint.tensors["model.layers.0.mlp.up_proj.weight"]
        assert (info.shape, info.dtype.name) == ((ROWS, COLUMNS), "F32")
        assert kind.name in checkpoint.decoded
        for start, stop in ((0, info.elements), (0, 1), (511, 513), (700, 2500), (info.elements - 1, info.elements)):
            into = np.empty((stop - start) * 4, np.uint8)
            checkpoint.read(info.name, start, stop, into)
            assert np.array_equal(into.view(np.uint32), expected[start:stop].view(np.uint32))


def test_rows_that_change_places_are_read_by_slice_too(tmp_path: Path) -> None:
    data = np.arange(12 * 64, dtype=np.float32).reshape(
        12, 64
    )  # two heads of six rows: 0 3 1 4 2 5 is how llama.cpp has them
    with open_checkpoint(plain_file(tmp_path / "x.gguf", Type.F32, data)) as checkpoint:
        expected = data[[0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]].reshape(-1)
        for start, stop in ((0, 768), (63, 65), (400, 700), (767, 768)):
            into = np.empty((stop - start) * 4, np.uint8)
            checkpoint.read("model.layers.0.self_attn.q_proj.weight", start, stop, into)
            assert np.array_equal(into.view(np.float32), expected[start:stop])
