"""Fused tensors are taken apart exactly, and put together again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mergery.architecture import read_architecture
from mergery.architecture.fused import fused_parts, transposed
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config
from mergery.dtypes import F32
from mergery.graph.fused import from_parts, take_part
from mergery.graph.nodes import Node, Stored
from tests.engine.test_gathering import leaf, made

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 12}
FAMILIES = {
    "phi3": ("model.layers.0.self_attn.qkv_proj.weight", (24, 12), {"model_type": "phi3", **HEADS}),
    "gate_up": ("model.layers.0.mlp.gate_up_proj.weight", (10, 12), {"model_type": "phi3", **HEADS}),
    "gpt2": ("h.0.attn.c_attn.weight", (12, 36), {"model_type": "gpt2", "n_embd": 12, "n_head": 4}),
    "gpt2 bias": ("h.0.attn.c_attn.bias", (36,), {"model_type": "gpt2", "n_embd": 12, "n_head": 4}),
    "neox": ("gpt_neox.layers.0.attention.query_key_value.weight", (36, 12), {"model_type": "gpt_neox", **HEADS}),
    "neox bias": ("gpt_neox.layers.0.attention.query_key_value.bias", (36,), {"model_type": "gpt_neox", **HEADS}),
    "falcon 7b": (
        "transformer.h.0.self_attention.query_key_value.weight",
        (18, 12),
        {"model_type": "falcon", "multi_query": True, "new_decoder_architecture": False, **HEADS},
    ),
    "falcon 40b": (
        "transformer.h.0.self_attention.query_key_value.weight",
        (24, 12),
        {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2, **HEADS},
    ),
    "falcon rw": (
        "transformer.h.0.self_attention.query_key_value.bias",
        (36,),
        {"model_type": "falcon", "multi_query": False, **HEADS},
    ),
    "bloom": ("h.0.self_attention.query_key_value.weight", (36, 12), {"model_type": "bloom", **HEADS}),
    "qwen": (
        "transformer.h.0.attn.c_attn.bias",
        (36,),
        {"model_type": "qwen", "num_attention_heads": 4, "kv_channels": 3, "hidden_size": 12},
    ),
    "internlm2": ("model.layers.0.attention.wqkv.weight", (24, 12), {"model_type": "internlm2", **HEADS}),
    "mpt": (
        "transformer.blocks.0.attn.Wqkv.weight",
        (18, 12),
        {"model_type": "mpt", "n_heads": 4, "d_model": 12, "attn_config": {"kv_n_heads": 1}},
    ),
    "codegen": ("transformer.h.0.attn.qkv_proj.weight", (48, 16), {"model_type": "codegen", "n_embd": 16, "n_head": 4}),
    "vision": ("model.visual.blocks.0.attn.qkv.weight", (36, 12), {"model_type": "qwen2_vl", "vision_config": {}}),
    "kv_b": (
        "model.layers.0.self_attn.kv_b_proj.weight",
        (28, 5),
        {"model_type": "deepseek_v2", "num_attention_heads": 4, "qk_nope_head_dim": 4, "v_head_dim": 3},
    ),
    "mixtral": ("model.layers.0.mlp.experts.gate_up_proj", (3, 10, 12), {"model_type": "mixtral"}),
    "mixtral down": ("model.layers.0.mlp.experts.down_proj", (3, 12, 5), {"model_type": "mixtral"}),
    "llama4": ("language_model.model.layers.0.feed_forward.experts.gate_up_proj", (3, 12, 10), {"model_type": "llama4"}),
    "llama4 down": ("language_model.model.layers.0.feed_forward.experts.down_proj", (3, 5, 12), {"model_type": "llama4"}),
    "gpt-oss": ("model.layers.0.mlp.experts.gate_up_proj", (3, 12, 10), {"model_type": "gpt_oss"}),
    "gpt-oss bias": ("model.layers.0.mlp.experts.gate_up_proj_bias", (3, 10), {"model_type": "gpt_oss"}),
    "granite": ("model.layers.0.block_sparse_moe.input_linear.weight", (3, 10, 12), {"model_type": "granitemoe"}),
    "dbrx": (
        "transformer.blocks.0.ffn.experts.mlp.w2",
        (12, 7),
        {"model_type": "dbrx", "ffn_config": {"moe_num_experts": 3}},
    ),
}  # fmt: skip


def parts_of(name, shape, config):
    roles = read_architecture([TensorInfo(name, shape, F32)], Config(config)).names[name].roles
    return fused_parts(name, shape, roles, Config(config))


def values(node: Node) -> np.ndarray:
    if isinstance(node, Stored):
        out = np.empty(node.elements, np.float32)
        node.checkpoint.read(node.info.name, 0, node.elements, out.view(np.uint8))
        return out.reshape(node.shape)
    return made(node).reshape(node.shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_cover_the_whole_and_join_to_it_again(family):
    name, shape, config = FAMILIES[family]
    parts = parts_of(name, shape, config)
    assert len(parts) > 1
    whole = leaf(torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape))
    pieces = [take_part(part.key, whole, part) for part in parts]
    assert [piece.shape for piece in pieces] == [part.shape for part in parts]
    numbers = np.concatenate([values(piece).reshape(-1) for piece in pieces])
    assert sorted(numbers.tolist()) == list(range(whole.elements))
    assert (values(from_parts(name, shape, parts, pieces)) == values(whole)).all()


@settings(max_examples=60)
@given(
    st.sampled_from(["phi3", "gpt_neox", "falcon", "internlm2", "gpt2"]),
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans(),
)  # fmt: skip
def test_any_head_layout_round_trips(family, keys, shared, size, hidden, bias):
    heads = keys * shared
    alone = family in ("gpt_neox", "gpt2")
    assume(not alone or shared == 1)
    config = {
        "model_type": family, "num_attention_heads": heads, "n_head": heads, "head_dim": size, "num_kv_heads": keys,
        "num_key_value_heads": keys, "new_decoder_architecture": True,
    }  # fmt: skip
    rows = (heads + 2 * keys) * size
    conv = family == "gpt2" and not bias
    shape = (rows,) if bias else (hidden, rows) if conv else (rows, hidden)
    name = f"h.0.attn.{'c_attn' if family == 'gpt2' else 'qkv_proj'}.{'bias' if bias else 'weight'}"
    parts = parts_of(name, shape, config)
    assert [part.roles[0] for part in parts] == ["attention.q", "attention.k", "attention.v"]
    assert transposed(name, shape, Config(config)) == conv
    whole = leaf(torch.randn(shape))
    joined = from_parts(name, shape, parts, [take_part(part.key, whole, part) for part in parts])
    assert (values(joined) == values(whole)).all()


def test_what_is_not_known_is_told_from_what_is_not_fused():
    name = "model.layers.0.self_attn.qkv_proj.weight"
    assert parts_of(name, (25, 12), {"model_type": "phi3", **HEADS}) is None  # 24 rows would be right
    assert parts_of(name, (25, 12), None) is None
    assert parts_of("model.layers.0.mlp.gate_up_proj.weight", (11, 12), {"model_type": "phi3", **HEADS}) is None
    assert parts_of("transformer.blocks.0.ffn.experts.mlp.w1", (12, 7), {"model_type": "dbrx"}) is None
    assert parts_of("model.layers.0.self_attn.kv_b_proj.weight", (28, 5), {"model_type": "deepseek_v2"}) is None
    assert parts_of("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", (28, 5), {"model_type": "deepseek_v2"}) == ()
    assert parts_of("model.layers.0.self_attn.q_proj.weight", (24, 12), {"model_type": "phi3", **HEADS}) == ()


def causal(kind, **changes):
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**changes))


BUILD = {
    "gpt_neox": {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 3},
    "gpt2": {"n_embd": 12, "n_layer": 1, "n_head": 3},
    "bloom": {"hidden_size": 12, "n_layer": 1, "n_head": 3},
    "falcon": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "bias": True},
    "falcon new": {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "num_kv_heads": 2, "bias": True,
        "new_decoder_architecture": True,
    },
    "falcon rw": {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "multi_query": False, "bias": True,
    },
    "phi3": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4,
        "num_key_value_heads": 2, "pad_token_id": 0,
    },
    "codegen": {"n_embd": 32, "n_layer": 1, "n_head": 4, "rotary_dim": 4},
    "persimmon": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4},
    "gpt_bigcode": {"n_embd": 16, "n_layer": 1, "n_head": 4},
    "mpt": {"d_model": 16, "n_heads": 4, "n_layers": 1},
}  # fmt: skip


@pytest.mark.parametrize("family", BUILD)
def test_the_parts_are_what_the_model_takes_them_for(family):
    """Where the value is zero, so is all that attention adds: then query and key say nothing, as the value still would."""
    torch.manual_seed(0)
    model = causal(family.split()[0], vocab_size=40, **BUILD[family]).eval()
    config = model.config.to_dict()
    tokens = torch.tensor([[3, 7, 11, 5, 2]])
    fused = {name: tensor for name, tensor in model.state_dict().items() if parts_of(name, tuple(tensor.shape), config)}
    fused = {n: t for n, t in fused.items() if parts_of(n, tuple(t.shape), config)[0].roles[0] == "attention.q"}
    assert fused

    def logits(**scales: float) -> torch.Tensor:
        """With each part multiplied by its number, and all else as it was."""
        kept = {name: tensor.clone() for name, tensor in fused.items()}
        for name, tensor in fused.items():
            for part in parts_of(name, tuple(tensor.shape), config):
                for start, length in zip(*part.runs(), strict=True):
                    tensor.view(-1)[start : start + length].mul_(scales[part.key]).add_(0.1 * scales[part.key])
        with torch.no_grad():
            result = model(tokens).logits.clone()
        for name, tensor in fused.items():
            tensor.copy_(kept[name])
        return result

    silent = logits(q=1, k=1, v=0)
    assert torch.equal(logits(q=-3, k=20, v=0), silent)
    assert not torch.equal(logits(q=1, k=1, v=1), silent)
    assert torch.allclose(logits(q=0, k=1, v=1), logits(q=0, k=5, v=1), atol=1e-6)  # all weights equal
    assert not torch.allclose(logits(q=0, k=1, v=1), logits(q=1, k=1, v=1), atol=1e-7)
