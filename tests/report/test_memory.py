"""`mergery inspect --memory`: sizes worked by hand, and the cache that transformers keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mergery as library
from mergery.testing.families import FAMILIES, make
from mergery.testing.families.making import load

BY_NAME = {family.name: family for family in FAMILIES}


def facts(name: str, folder: Path, **config: Any) -> dict[str, Any]:
    family = BY_NAME[name]
    make(replace(family, config={**family.config, **config}), folder)
    return library.inspect(folder, memory=True)["memory"]


@pytest.mark.parametrize("name", ["Llama", "Qwen 3", "Phi 3", "GPT-2", "Mixtral"])
def test_the_cache_is_what_transformers_keeps(name: str, tmp_path: Path) -> None:
    found = facts(name, tmp_path)
    model, _ = load(BY_NAME[name], tmp_path)
    with torch.no_grad():
        cache = model(torch.arange(10)[None], use_cache=True).past_key_values
    entries = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    context, nbytes = max(found["cache"].items())
    assert nbytes == entries * 2 * context // 10


def test_weights_by_hand(tmp_path: Path) -> None:
    found = facts("Llama", tmp_path)
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64
    tables, matrices, vectors = 2 * 128 * 32, 2 * layer, 5 * 32
    assert found["parameters"] == tables + matrices + vectors == found["active"]
    assert found["weights"]["bfloat16"] == 2 * found["parameters"]
    assert found["weights"]["GGUF q8_0"] == (tables + matrices) * 34 / 32 + 4 * vectors
    finer = 2 * (
        16 * 32 + 32 * 64
    )  # of two layers, the one that is the last eighth, and the first, which is of no third
    assert found["weights"]["GGUF q4_k_m"] == pytest.approx(
        (tables * 6.5625 + (matrices - finer // 2) * 4.5 + finer / 2 * 6.5625) / 8 + 4 * vectors, abs=1
    )


def test_sliding_windows_end_the_growth(tmp_path: Path) -> None:
    found = facts(
        "Gemma 2", tmp_path, max_position_embeddings=65536, sliding_window=4096, num_hidden_layers=4, num_key_value_heads=2,
        head_dim=8,
    )  # fmt: skip
    each = 2 * 2 * 8 * 2  # keys and values of two heads of eight, in two bytes
    assert found["cache"][4096] == 4 * each * 4096
    assert found["cache"][32768] == 2 * each * 32768 + 2 * each * 4096


def test_latent_attention_keeps_little(tmp_path: Path) -> None:
    found = facts("DeepSeek V2 Lite", tmp_path, max_position_embeddings=4096)
    config = json.loads((tmp_path / "config.json").read_text())
    each = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    assert found["cache"][4096] == config["num_hidden_layers"] * each * 4096 * 2


def test_states_do_not_grow(tmp_path: Path) -> None:
    found = facts("Mamba", tmp_path)
    assert set(found["cache"].values()) == {
        2 * (64 * 8 + 64 * 4) * 4
    }  # two layers: states, and the last inputs of convolutions


def test_a_token_meets_few_experts(mergery: Any, tmp_path: Path) -> None:
    found = facts("Qwen 2 MoE", tmp_path)
    assert found["experts"] == {"count": 4, "used": 2}
    routed = 2 * 4 * 3 * 16 * 32
    assert found["active"] == found["parameters"] - routed // 2
    shown = " ".join(mergery("inspect", tmp_path, "--memory").out.split())
    assert "2 of 4 experts" in shown
    assert "GGUF q8_0" in shown
    assert "24 GB card bfloat16" in shown


def test_what_fits(tmp_path: Path) -> None:
    """A model in the shape of Llama 3 8B, of which only the header is written."""
    shapes = {
        "model.embed_tokens.weight": (128256, 4096),
        "lm_head.weight": (128256, 4096),
        "model.norm.weight": (4096,),
    }
    sides = {"q": (4096, 4096), "k": (1024, 4096), "v": (1024, 4096), "o": (4096, 4096)}
    for layer in range(32):
        inner = f"model.layers.{layer}"
        shapes |= {f"{inner}.self_attn.{name}_proj.weight": shape for name, shape in sides.items()}
        shapes |= {f"{inner}.mlp.{name}_proj.weight": (14336, 4096) for name in ("gate", "up")}
        shapes |= {f"{inner}.mlp.down_proj.weight": (4096, 14336), f"{inner}.input_layernorm.weight": (4096,)}
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 131072}))
    found = library.inspect(tmp_path, memory=True)["memory"]
    assert found["cache"][8192] == 32 * 2 * 1024 * 8192 * 2 == 1_073_741_824
    fits = {each["machine"]: each for each in found["fits"]}
    assert fits["8 GB card"]["format"] == "GGUF q4_k_m"
    assert fits["24 GB card"]["format"] == "bfloat16"
    assert fits["80 GB card"]["context"] == 131072
    left = 24e9 * 0.9 - 0.5e9 - found["weights"]["bfloat16"]
    assert fits["24 GB card"]["context"] == int(left // 131072)
