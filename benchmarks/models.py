"""Models to measure with: a Llama and its fine-tunes, of a chosen size and dtype, written once and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

CACHE = Path(__file__).parent / ".cache"
SIZES = {  # hidden, intermediate, layers
    "0.1B": (512, 2048, 16),
    "0.4B": (1024, 4096, 20),
    "1.6B": (2048, 8192, 22),
}


def build(size: str = "0.4B", experts: int = 3, cache: Path = CACHE, dtype: str = "bfloat16") -> list[Path]:
    """Folders of a base and its fine-tunes: random weights, deltas of a fine-tune's magnitude, real file format."""
    folder = cache / (size if dtype == "bfloat16" else f"{size}-{dtype}")
    names = ["base", *(f"expert-{index}" for index in range(experts))]
    if all((folder / name / "done").exists() for name in names):
        return [folder / name for name in names]
    import torch  # only where there is something to build: a child's memory is measured from its parent's
    from safetensors.torch import save_file

    hidden, intermediate, layers = SIZES[size]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False, "dtype": dtype,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    for seed, name in enumerate(names):
        tensors = {}
        for number, (tensor, shape) in enumerate(_shapes(config).items()):
            values = torch.from_numpy(np.random.default_rng(number).standard_normal(shape, dtype=np.float32)) * 0.02
            if "norm" in tensor:
                values = values + 1.0
            if seed:
                noise = np.random.default_rng((seed, number)).standard_normal(shape, dtype=np.float32)
                values = values + torch.from_numpy(noise) * 0.001
            tensors[tensor] = values.to(getattr(torch, dtype))
        (folder / name).mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        (folder / name / "config.json").write_text(json.dumps(config, indent=2))
        (folder / name / "done").touch()
    return [folder / name for name in names]


def _shapes(config: dict) -> dict[str, tuple[int, ...]]:
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(config["num_hidden_layers"]):
        stem = f"model.layers.{layer}"
        for letter in "qkvo":
            shapes[f"{stem}.self_attn.{letter}_proj.weight"] = (hidden, hidden)
        shapes[f"{stem}.mlp.gate_proj.weight"] = (inner, hidden)
        shapes[f"{stem}.mlp.up_proj.weight"] = (inner, hidden)
        shapes[f"{stem}.mlp.down_proj.weight"] = (hidden, inner)
        shapes[f"{stem}.input_layernorm.weight"] = (hidden,)
        shapes[f"{stem}.post_attention_layernorm.weight"] = (hidden,)
    return {**shapes, "model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
