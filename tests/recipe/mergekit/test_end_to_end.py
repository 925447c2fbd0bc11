"""A mergekit file and the recipe that is printed for it write the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

FILE = """
name: blend
merge_method: slerp
base_model: a
models: [{model: a}, {model: b}]
parameters: {t: [{filter: mlp, value: [0.2, 0.8]}, {value: 0.4}]}
dtype: float32
---
merge_method: ties
base_model: base
models:
  - {model: blend, parameters: {weight: [0.2, 0.9], density: 0.5}}
  - {model: b, parameters: {weight: 0.4}}
dtype: bfloat16
"""


def write_model(folder: Path, seed: int) -> None:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    names += [
        f"model.layers.{layer}.{part}.weight" for layer in range(3) for part in ("mlp.up_proj", "self_attn.q_proj")
    ]
    save_file(
        {name: torch.randn(6, 8, generator=generator) for name in names}, folder / "model.safetensors", {"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 3, "dtype": "float32"}))


def test_both_ways(tmp_path: Path, mergery: Callable[..., Any]) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        write_model(tmp_path / name, seed)
    config, recipe = tmp_path / "config.yml", tmp_path / "recipe.yaml"
    config.write_text(FILE)
    recipe.write_text(mergery("import", config).out)
    for file, out in ((config, tmp_path / "one"), (recipe, tmp_path / "two")):
        outcome = mergery("merge", file, out, "--quiet")
        assert (outcome.code, outcome.err) == (0, "")
    assert (tmp_path / "one" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_numbers(tmp_path: Path, mergery: Callable[..., Any]) -> None:
    """Weights over depth: the first value for the embeddings and the head, in between for the layer in the middle."""
    for seed, name in enumerate(("a", "b")):
        write_model(tmp_path / name, seed)
    (tmp_path / "config.yml").write_text(
        "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: [0, 1]}}\n"
        "  - {model: b, parameters: {weight: [1, 0]}}\n"
    )
    assert mergery("merge", tmp_path / "config.yml", tmp_path / "out", "--quiet").code == 0
    a, b, out = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b", "out"))
    for name, tensor in out.items():
        share = 0.5 if "layers.1." in name else 1.0 if "layers.2." in name else 0.0
        torch.testing.assert_close(tensor, share * a[name] + (1 - share) * b[name])
