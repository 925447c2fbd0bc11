"""Names and configs of many families are parsed without a file for each."""

from __future__ import annotations

import pytest

from mergery.architecture import read_architecture
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.dtypes import F32


def parse(*names: str, depth: int = 2):
    infos = [TensorInfo(name, (4, 4), F32) for name in names]
    return read_architecture(infos, Config({"model_type": "x", "num_hidden_layers": depth}))


@pytest.mark.parametrize(
    ("name", "layer", "roles", "after"),
    [
        ("model.embed_tokens.weight", None, ("embed",), False),
        ("model.layers.1.self_attn.q_proj.weight", 1, ("attention.q", "linear"), False),
        ("model.layers.1.self_attn.k_proj.bias", 1, ("attention.k", "bias"), False),
        ("model.layers.0.self_attn.o_proj.weight", 0, ("attention.o", "linear"), False),
        ("model.layers.0.self_attn.qkv_proj.weight", 0, ("attention.qkv", "linear"), False),
        ("model.layers.0.self_attn.q_norm.weight", 0, ("attention.norm",), False),
        ("model.layers.1.mlp.gate_proj.weight", 1, ("mlp.gate", "linear"), False),
        ("model.layers.1.mlp.gate_up_proj.weight", 1, ("mlp.gate_up", "linear"), False),
        ("model.layers.1.mlp.up_proj.weight", 1, ("mlp.up", "linear"), False),
        ("model.layers.1.mlp.down_proj.weight", 1, ("mlp.down", "linear"), False),
        ("model.layers.1.mlp.gate.weight", 1, ("router",), False),
        ("model.layers.1.mlp.experts.3.gate_proj.weight", 1, ("expert", "mlp.gate", "linear"), False),
        ("model.layers.1.block_sparse_moe.gate.weight", 1, ("router",), False),
        ("model.layers.1.block_sparse_moe.experts.0.w2.weight", 1, ("expert", "mlp.down", "linear"), False),
        ("model.layers.1.input_layernorm.weight", 1, ("norm",), False),
        ("model.norm.weight", None, ("norm",), True),
        ("lm_head.weight", None, ("head",), True),
        ("model.mystery", None, ("other",), False),
    ],
)
def test_llama_like_names(name, layer, roles, after):
    architecture = parse("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight", name)
    parsed = architecture.names[name]
    assert (parsed.layer, parsed.roles, parsed.after) == (layer, roles, after)
    assert architecture.stack == "model.layers"
    assert architecture.depth == 2


def test_gpt2_names():
    names = ["wte.weight", "wpe.weight", "ln_f.weight", "ln_f.bias"]
    for layer in range(2):
        names += [f"h.{layer}.{rest}" for rest in ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight",
                                                   "mlp.c_proj.weight", "ln_1.weight")]  # fmt: skip
    architecture = parse(*["transformer." + name for name in names])
    roles = {name.removeprefix("transformer."): parsed.roles for name, parsed in architecture.names.items()}
    assert roles["wte.weight"] == roles["wpe.weight"] == ("embed",)
    assert roles["h.0.attn.c_attn.weight"] == ("attention.qkv", "linear")
    assert roles["h.0.attn.c_proj.weight"] == ("attention.o", "linear")
    assert roles["h.1.mlp.c_fc.weight"] == ("mlp.up", "linear")
    assert roles["h.1.mlp.c_proj.weight"] == ("mlp.down", "linear")
    assert roles["h.1.ln_1.weight"] == ("norm",)
    assert architecture.names["transformer.ln_f.weight"].after


def test_the_language_model_of_a_vision_model_is_the_stack():
    names = [f"vision_tower.encoder.layers.{layer}.mlp.fc1.weight" for layer in range(2)]
    names += [f"language_model.model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)]
    assert parse(*names).stack == "language_model.model.layers"


def test_parts_and_their_own_layers():
    names = [f"vision_tower.encoder.layers.{layer}.mlp.fc1.weight" for layer in range(4)]
    names += [f"language_model.model.layers.{layer}.mlp.up_proj.weight" for layer in range(2)]
    names += ["multi_modal_projector.linear_1.weight", "audio_tower.layers.1.fc1.weight"]
    parsed = parse(*names).names
    tower = parsed["vision_tower.encoder.layers.3.mlp.fc1.weight"]
    assert (tower.part, tower.layer, tower.number, tower.height) == ("vision", None, 3, 1.0)
    assert parsed["multi_modal_projector.linear_1.weight"].part == "projector"
    assert parsed["audio_tower.layers.1.fc1.weight"].part == "audio"
    assert parsed["language_model.model.layers.1.mlp.up_proj.weight"].layer == 1


def test_encoder_and_decoder_have_layers_and_the_decoder_is_the_main_stack():
    names = [
        f"{stack}.block.{layer}.layer.0.SelfAttention.q.weight" for stack in ("encoder", "decoder") for layer in (0, 1)
    ]
    architecture = parse(*names)
    assert architecture.stack == "decoder.block"
    assert architecture.names[names[1]].number == 1
    assert architecture.names[names[1]].layer is None


def test_a_number_too_large_for_a_layer_is_a_part_of_the_name():
    name = "model.layers.99999999999999999999.mlp.up_proj.weight"
    assert parse("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", name).depth == 2


def test_numbers_that_are_no_layers_tell_names_apart():
    """Only layers and experts are read once for all: a number in front, or a long one, belongs to the prefix."""
    names = ["0.layers.0.w", "0.layers.1.w", "1.layers.0.w", "a.1234567.layers.2.w", "a.1234568.layers.0.w"]
    found = parse(*names)
    assert (found.stack, found.depth) == ("0.layers", 2)
    assert [found.names[name].number for name in names] == [0, 1, 0, 2, 0]
    assert [found.names[name].layer for name in names] == [0, 1, None, None, None]


def test_experts_of_a_layer_share_what_their_names_say():
    names = [f"model.layers.{layer}.mlp.experts.{e}.up_proj.weight" for layer in range(3) for e in range(4)]
    parsed = parse(*names).names
    assert len({id(each) for each in parsed.values()}) == 3
    assert {each.height for each in parsed.values()} == {0.0, 0.5, 1.0}
