"""Families whose code stands only on the hub: files with exactly the names and shapes that they publish.

Sizes: hidden 32, intermediate 64, 2 layers, 4 heads of 8, vocabulary 128, 4 experts of 16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mergery.testing.families.table import Family

Shapes = dict[str, tuple[int, ...]]

LAYERS, EXPERTS = 2, 4
V, H, I = 128, 32, 64  # noqa: E741 - vocabulary, hidden, intermediate


def shapes(kind: str) -> Shapes:
    """Names and shapes of a family's tiny model; `{layer}` and `{expert}` are numbered."""
    found: Shapes = {}
    for name, shape in _TABLES[kind].items():
        for layer in range(LAYERS) if "{layer}" in name else (0,):
            for expert in range(EXPERTS) if "{expert}" in name else (0,):
                found[name.format(layer=layer, expert=expert)] = shape
    return found


def write(family: Family, folder: Path, seed: int) -> Path:
    """Write a random model of such a family."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes(family.kind).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {"model_type": family.kind, **family.config}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


_TABLES: dict[str, Shapes] = {
    "qwen": {
        "transformer.wte.weight": (V, H),
        "transformer.h.{layer}.ln_1.weight": (H,),
        "transformer.h.{layer}.attn.c_attn.weight": (3 * H, H),
        "transformer.h.{layer}.attn.c_attn.bias": (3 * H,),
        "transformer.h.{layer}.attn.c_proj.weight": (H, H),
        "transformer.h.{layer}.ln_2.weight": (H,),
        "transformer.h.{layer}.mlp.w1.weight": (I // 2, H),
        "transformer.h.{layer}.mlp.w2.weight": (I // 2, H),
        "transformer.h.{layer}.mlp.c_proj.weight": (H, I // 2),
        "transformer.ln_f.weight": (H,),
        "lm_head.weight": (V, H),
    },
    "exaone": {
        "transformer.wte.weight": (V, H),
        "transformer.h.{layer}.ln_1.weight": (H,),
        "transformer.h.{layer}.attn.attention.q_proj.weight": (H, H),
        "transformer.h.{layer}.attn.attention.k_proj.weight": (H // 2, H),
        "transformer.h.{layer}.attn.attention.v_proj.weight": (H // 2, H),
        "transformer.h.{layer}.attn.attention.out_proj.weight": (H, H),
        "transformer.h.{layer}.ln_2.weight": (H,),
        "transformer.h.{layer}.mlp.c_fc_0.weight": (I, H),
        "transformer.h.{layer}.mlp.c_fc_1.weight": (I, H),
        "transformer.h.{layer}.mlp.c_proj.weight": (H, I),
        "transformer.ln_f.weight": (H,),
        "lm_head.weight": (V, H),
    },
    "deepseek": {
        "model.embed_tokens.weight": (V, H),
        "model.layers.{layer}.input_layernorm.weight": (H,),
        "model.layers.{layer}.self_attn.q_proj.weight": (H, H),
        "model.layers.{layer}.self_attn.k_proj.weight": (H, H),
        "model.layers.{layer}.self_attn.v_proj.weight": (H, H),
        "model.layers.{layer}.self_attn.o_proj.weight": (H, H),
        "model.layers.{layer}.post_attention_layernorm.weight": (H,),
        "model.layers.0.mlp.gate_proj.weight": (I, H),
        "model.layers.0.mlp.up_proj.weight": (I, H),
        "model.layers.0.mlp.down_proj.weight": (H, I),
        "model.layers.1.mlp.gate.weight": (EXPERTS, H),
        "model.layers.1.mlp.experts.{expert}.gate_proj.weight": (16, H),
        "model.layers.1.mlp.experts.{expert}.up_proj.weight": (16, H),
        "model.layers.1.mlp.experts.{expert}.down_proj.weight": (H, 16),
        "model.layers.1.mlp.shared_experts.gate_proj.weight": (32, H),
        "model.layers.1.mlp.shared_experts.up_proj.weight": (32, H),
        "model.layers.1.mlp.shared_experts.down_proj.weight": (H, 32),
        "model.norm.weight": (H,),
        "lm_head.weight": (V, H),
    },
    "phi3small": {
        "model.embed_tokens.weight": (V, H),
        "model.layers.{layer}.input_layernorm.weight": (H,),
        "model.layers.{layer}.input_layernorm.bias": (H,),
        "model.layers.{layer}.self_attn.query_key_value.weight": (2 * H, H),
        "model.layers.{layer}.self_attn.query_key_value.bias": (2 * H,),
        "model.layers.{layer}.self_attn.dense.weight": (H, H),
        "model.layers.{layer}.self_attn.dense.bias": (H,),
        "model.layers.{layer}.post_attention_layernorm.weight": (H,),
        "model.layers.{layer}.post_attention_layernorm.bias": (H,),
        "model.layers.{layer}.mlp.up_proj.weight": (2 * I, H),
        "model.layers.{layer}.mlp.up_proj.bias": (2 * I,),
        "model.layers.{layer}.mlp.down_proj.weight": (H, I),
        "model.layers.{layer}.mlp.down_proj.bias": (H,),
        "model.final_layernorm.weight": (H,),
        "model.final_layernorm.bias": (H,),
    },
    "rwkv5": {
        "rwkv.embeddings.weight": (V, H),
        "rwkv.blocks.0.pre_ln.weight": (H,),
        "rwkv.blocks.0.pre_ln.bias": (H,),
        "rwkv.blocks.{layer}.ln1.weight": (H,),
        "rwkv.blocks.{layer}.ln1.bias": (H,),
        "rwkv.blocks.{layer}.ln2.weight": (H,),
        "rwkv.blocks.{layer}.ln2.bias": (H,),
        "rwkv.blocks.{layer}.attention.time_decay": (4, 8),
        "rwkv.blocks.{layer}.attention.time_faaaa": (4, 8),
        **{
            f"rwkv.blocks.{{layer}}.attention.time_mix_{each}": (1, 1, H)
            for each in ("gate", "key", "value", "receptance")
        },
        **{
            f"rwkv.blocks.{{layer}}.attention.{each}.weight": (H, H)
            for each in ("key", "value", "receptance", "gate", "output")
        },
        "rwkv.blocks.{layer}.attention.ln_x.weight": (H,),
        "rwkv.blocks.{layer}.attention.ln_x.bias": (H,),
        "rwkv.blocks.{layer}.feed_forward.time_mix_key": (1, 1, H),
        "rwkv.blocks.{layer}.feed_forward.time_mix_receptance": (1, 1, H),
        "rwkv.blocks.{layer}.feed_forward.key.weight": (I, H),
        "rwkv.blocks.{layer}.feed_forward.receptance.weight": (H, H),
        "rwkv.blocks.{layer}.feed_forward.value.weight": (H, I),
        "rwkv.ln_out.weight": (H,),
        "rwkv.ln_out.bias": (H,),
        "head.weight": (V, H),
    },
}
_TABLES["rwkv6"] = {
    **{name: shape for name, shape in _TABLES["rwkv5"].items() if "time_" not in name},
    **{f"rwkv.blocks.{{layer}}.attention.time_maa_{each}": (1, 1, H) for each in "xwkvrg"},
    "rwkv.blocks.{layer}.attention.time_maa_w1": (H, 40),
    "rwkv.blocks.{layer}.attention.time_maa_w2": (5, 8, H),
    "rwkv.blocks.{layer}.attention.time_decay": (1, 1, H),
    "rwkv.blocks.{layer}.attention.time_decay_w1": (H, 8),
    "rwkv.blocks.{layer}.attention.time_decay_w2": (8, H),
    "rwkv.blocks.{layer}.attention.time_faaaa": (4, 8),
    "rwkv.blocks.{layer}.feed_forward.time_maa_k": (1, 1, H),
    "rwkv.blocks.{layer}.feed_forward.time_maa_r": (1, 1, H),
}
