"""Models of any size that take no room: their files are sparse, zeros that no disk holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

SHARD = 5_000_000_000
Shapes = Mapping[str, tuple[int, ...]]


def llama_config(**changes: object) -> dict[str, object]:
    """The config of Llama 3.1 405B, or of one that differs in what `changes` names."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 16384,
        "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
        "dtype": "bfloat16", **changes,
    }  # fmt: skip


def llama_shapes(config: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama's tensors."""
    keys = ("hidden_size", "intermediate_size", "vocab_size", "num_attention_heads", "num_key_value_heads")
    hidden, inner, words, heads, groups = (int(str(config[key])) for key in keys)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (words, hidden)}
    for layer in range(int(str(config["num_hidden_layers"]))):
        stem = f"model.layers.{layer}"
        for letter, rows in zip("qkv", (hidden, hidden * groups // heads, hidden * groups // heads), strict=True):
            shapes[f"{stem}.self_attn.{letter}_proj.weight"] = (rows, hidden)
        shapes[f"{stem}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{stem}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{stem}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{stem}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{stem}.input_layernorm.weight"] = (hidden,)
        shapes[f"{stem}.post_attention_layernorm.weight"] = (hidden,)
    return {**shapes, "model.norm.weight": (hidden,), "lm_head.weight": (words, hidden)}


def experts_shapes(layers: int, experts: int, hidden: int = 8, inner: int = 8) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a mixture of experts whose experts are stored one by one: 3 tensors each."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (64, hidden)}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        for letter in "qkvo":
            shapes[f"{stem}.self_attn.{letter}_proj.weight"] = (hidden, hidden)
        shapes[f"{stem}.mlp.gate.weight"] = (experts, hidden)
        for expert in range(experts):
            shapes[f"{stem}.mlp.experts.{expert}.gate_proj.weight"] = (inner, hidden)
            shapes[f"{stem}.mlp.experts.{expert}.up_proj.weight"] = (inner, hidden)
            shapes[f"{stem}.mlp.experts.{expert}.down_proj.weight"] = (hidden, inner)
        shapes[f"{stem}.input_layernorm.weight"] = (hidden,)
        shapes[f"{stem}.post_attention_layernorm.weight"] = (hidden,)
    return {**shapes, "model.norm.weight": (hidden,), "lm_head.weight": (64, hidden)}


def sparse(folder: Path, shapes: Shapes, config: Mapping[str, object], shard: int = SHARD) -> Path:
    """A bfloat16 model folder of zeros that takes no room on the disk: headers, and files of the right size."""
    folder.mkdir(parents=True)
    groups: list[dict[str, dict[str, object]]] = [{}]
    ends = [0]
    for name, shape in shapes.items():
        nbytes = 2
        for side in shape:
            nbytes *= side
        if groups[-1] and ends[-1] + nbytes > shard:
            groups.append({})
            ends.append(0)
        groups[-1][name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [ends[-1], ends[-1] + nbytes]}
        ends[-1] += nbytes
    weight_map: dict[str, str] = {}
    for number, (entries, end) in enumerate(zip(groups, ends, strict=True), start=1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
        header += b" " * (-len(header) % 8)
        with open(folder / file, "wb") as opened:
            opened.write(len(header).to_bytes(8, "little") + header)
            opened.truncate(8 + len(header) + end)
        weight_map |= dict.fromkeys(entries, file)
    if len(groups) > 1:
        index = {"metadata": {"total_size": sum(ends)}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- measuring ----------------------------------------------------------------------------------------------------------
