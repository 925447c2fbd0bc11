"""Names and configs of many families are parsed without a file for each."""

from __future__ import annotations

import pytest

from weft.architecture import read_architecture
from weft.checkpoints.base import TensorInfo
from weft.dtypes import F32


def parse(*names: str, depth: int = 2):
    infos = [TensorInfo(name, (4, 4), F32) for name in names]
    return read_architecture(infos, {"model_type": "x", "num_hidden_layers": depth})


@pytest.mark.parametrize(
    ("name", "layer", "roles", "after"),
    [
        ("model.embed_tokens.weight", None, ("embed",), False),
        ("model.layers.1.self_attn.q_proj.weight", 1, ("attention.q",), False),
        ("model.layers.1.self_attn.k_proj.bias", 1, ("attention.k", "bias"), False),
        ("model.layers.0.self_attn.o_proj.weight", 0, ("attention.o",), False),
        ("model.layers.0.self_attn.qkv_proj.weight", 0, ("attention.qkv",), False),
        ("model.layers.0.self_attn.q_norm.weight", 0, ("attention.norm",), False),
        ("model.layers.1.mlp.gate_proj.weight", 1, ("mlp.gate",), False),
        ("model.layers.1.mlp.gate_up_proj.weight", 1, ("mlp.gate_up",), False),
        ("model.layers.1.mlp.up_proj.weight", 1, ("mlp.up",), False),
        ("model.layers.1.mlp.down_proj.weight", 1, ("mlp.down",), False),
        ("model.layers.1.mlp.gate.weight", 1, ("router",), False),
        ("model.layers.1.mlp.experts.3.gate_proj.weight", 1, ("expert", "mlp.gate"), False),
        ("model.layers.1.block_sparse_moe.gate.weight", 1, ("router",), False),
        ("model.layers.1.block_sparse_moe.experts.0.w2.weight", 1, ("expert", "mlp.down"), False),
        ("model.layers.1.input_layernorm.weight", 1, ("norm",), False),
        ("model.norm.weight", None, ("norm",), True),
        ("lm_head.weight", None, ("head",), True),
        ("model.mystery", None, ("other",), False),
    ],
)
def test_llama_like_names(name, layer, roles, after):
    architecture = parse("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight", name)
    part = architecture.parts[name]
    assert (part.layer, part.roles, part.after) == (layer, roles, after)
    assert architecture.stack == "model.layers"
    assert architecture.depth == 2


def test_gpt2_names():
    names = ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"]
    for layer in range(2):
        names += [f"h.{layer}.{rest}" for rest in ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight",
                                                   "mlp.c_proj.weight", "ln_1.weight")]  # fmt: skip
    architecture = parse(*["transformer." + name for name in names])
    roles = {name.removeprefix("transformer."): part.roles for name, part in architecture.parts.items()}
    assert roles["wte.weight"] == roles["wpe.weight"] == ("embed",)
    assert roles["h.0.attn.c_attn.weight"] == ("attention.qkv",)
    assert roles["h.0.attn.c_proj.weight"] == ("attention.o",)
    assert roles["h.1.mlp.c_fc.weight"] == ("mlp.up",)
    assert roles["h.1.mlp.c_proj.weight"] == ("mlp.down",)
    assert roles["h.1.ln_1.weight"] == ("norm",)
    assert architecture.parts["transformer.ln_f.weight"].after


def test_the_language_model_of_a_vision_model_is_the_stack():
    names = [f"vision_tower.encoder.layers.{layer}.mlp.fc1.weight" for layer in range(2)]
    names += [f"language_model.model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)]
    assert parse(*names).stack == "language_model.model.layers"


def test_a_number_too_large_for_a_layer_is_a_part_of_the_name():
    name = "model.layers.99999999999999999999.mlp.up_proj.weight"
    assert parse("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", name).depth == 2
