"""Quantised layers as files, and what is read of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mergery.checkpoints import Checkpoint, open_checkpoint

NAME = "model.layers.0.mlp.up_proj"


def weight(rows: int = 96, columns: int = 256, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    return (0.1 * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))).to(dtype)


def opened(
    tmp_path: Path, tensors: Mapping[str, torch.Tensor], scheme: Any = None, dtype: str = "bfloat16"
) -> Checkpoint:
    """A model whose only layer that is quantised is `NAME`."""
    more = {"model.norm.weight": torch.ones(8, dtype=torch.bfloat16)}
    config = {"model_type": "llama", "dtype": dtype} | ({"quantization_config": scheme} if scheme else {})
    save_file({name: each.contiguous() for name, each in {**tensors, **more}.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    return open_checkpoint(tmp_path)


def whole(checkpoint: Checkpoint, name: str = f"{NAME}.weight") -> torch.Tensor:
    """The tensor read at once; and read in odd slices, which must be the same."""
    info = checkpoint.tensors[name]
    assert info.dtype.name == "F32"
    assert "quantization_config" not in checkpoint.config
    raw = np.empty(info.nbytes, np.uint8)
    checkpoint.read(name, 0, info.elements, raw)
    values = raw.view(np.float32)
    for start, stop in ((0, 1), (3, 70), (61, 1000), (info.elements - 5, info.elements), (256, 512), (1023, 5000)):
        part = np.empty((stop - start) * 4, np.uint8)
        checkpoint.read(name, start, stop, part)
        assert np.array_equal(part.view(np.uint32), values[start:stop].view(np.uint32))
    return torch.from_numpy(values.copy()).reshape(info.shape)


def compress(weights: Any, kind: str, tensor: torch.Tensor, **state: torch.Tensor) -> tuple[dict, torch.Tensor]:
    """What compressed-tensors stores of a matrix, under its name, and what it makes of that again."""
    library = pytest.importorskip("compressed_tensors", reason="it is the reference")
    from compressed_tensors.compressors.base import BaseCompressor

    scheme = library.quantization.QuantizationScheme(targets=["Linear"], weights=weights)
    compressor = BaseCompressor.get_value_from_registry(kind)
    stored = compressor.compress({"weight": tensor, **state}, scheme)
    again = compressor.decompress(dict(stored), scheme)["weight"]
    return {f"{NAME}.{key}": value for key, value in stored.items()}, again


def ranges(tensor: torch.Tensor, groups: int, bits: int, symmetric: bool) -> dict[str, torch.Tensor]:
    """Scales, and zero points, that fit groups of columns."""
    parts = tensor.float().reshape(len(tensor), groups, -1)
    if symmetric:
        return {"weight_scale": (parts.abs().amax(-1) / (2 ** (bits - 1) - 0.5)).to(tensor.dtype)}
    low, high = parts.amin(-1), parts.amax(-1)
    scale = ((high - low) / (2**bits - 1)).to(tensor.dtype)
    zero = torch.round(-(2 ** (bits - 1)) - low / scale.float()).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return {"weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
