"""Tiny random models for the comparison: every family as a base and its experts, in two precisions.

Experts are the base plus noise (`near` plus a fiftieth of it). The float32 experts have continuous noise (root mean
square 1e-2), so no two magnitudes are equal. The bfloat16 experts have magnitudes in ten bands with gaps between them,
wider than bfloat16's rounding, and each band holds a tenth of the tensor: so a cut at any tenth falls into a gap, and
which entries survive does not hang on the order of equal numbers.
"""

from __future__ import annotations

import json
import zlib
from itertools import pairwise
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

MEMBERS = ("base", "a", "b", "c", "near")
VOCABULARY = 120
NOISE = 1e-2

COMMON = {
    "hidden_size": 40,
    "intermediate_size": 100,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {"model_type": "llama"},
    "llama_tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama_bias": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral"},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 10},
    "gemma2": {"model_type": "gemma2", "head_dim": 10},
    "phi3": {"model_type": "phi3"},
    "mixtral": {"model_type": "mixtral", "num_hidden_layers": 2, "num_local_experts": 4, "head_dim": 10},
    "deepseek_v3": {
        "model_type": "deepseek_v3", "num_hidden_layers": 3, "first_k_dense_replace": 1, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1, "moe_intermediate_size": 20,
        "q_lora_rank": 20, "kv_lora_rank": 20, "qk_rope_head_dim": 10, "qk_nope_head_dim": 10, "v_head_dim": 10,
        "num_key_value_heads": 4,
    },
}  # fmt: skip


def make(folder: Path, family: str, dtype: str) -> Path:
    """The folder of one family in one precision, with a folder for each member; made on first use."""
    home = folder / f"{family}-{dtype}"
    if not (home / "done").exists():
        config = configure(family)
        for member in MEMBERS:
            write(home / member, config, values(config, family, member, dtype), dtype)
        (home / "done").touch()
    return home


def configure(family: str) -> PreTrainedConfig:
    settings = {**COMMON, **FAMILIES[family]}
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


def values(config: PreTrainedConfig, family: str, member: str, dtype: str) -> dict[str, torch.Tensor]:
    """The weights of one member by transformers' names, in float64."""
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in AutoModelForCausalLM.from_config(config).state_dict().items()}
    result = {}
    for name, shape in shapes.items():
        norm = "norm" in name
        base = generator(family, "base", name)
        weight = torch.randn(shape, generator=base, dtype=torch.float64) * (0.1 if norm else 0.02)
        weight += 1.0 if norm and "gemma" not in family else 0.0
        weight = weight.to(torch.float32 if dtype == "float32" else torch.bfloat16).double()
        if member != "base":
            own = generator(family, member, name)
            delta = noise(shape, own) if dtype == "float32" else banded(shape, own, 0.25 if norm else 0.01)
            weight = weight + (0.02 * delta if member == "near" else delta)
        result[name] = weight
    return result


def generator(*words: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32("/".join(words).encode()))


def noise(shape: tuple[int, ...], own: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=own, dtype=torch.float64) * NOISE


def banded(shape: tuple[int, ...], own: torch.Generator, scale: float) -> torch.Tensor:
    """Noise whose magnitudes fill the middle half of ten bands, each with a tenth of the elements."""
    count = torch.Size(shape).numel()
    ends = [int(part / 10 * count) for part in range(11)]
    band = torch.cat([torch.full((high - low,), 9 - i) for i, (low, high) in enumerate(pairwise(ends))])
    band = band[torch.randperm(count, generator=own)].double()
    place = 0.25 + 0.5 * torch.rand(count, generator=own, dtype=torch.float64)
    sign = torch.randint(0, 2, (count,), generator=own) * 2.0 - 1.0
    return (scale * 0.3 * (band + place) * sign).reshape(shape)


def write(folder: Path, config: PreTrainedConfig, weights: dict[str, torch.Tensor], dtype: str) -> None:
    """Save one model as transformers saves it, with a tokenizer of whole words."""
    precision = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_config(config).to(precision)
    model.load_state_dict({name: weight.to(precision) for name, weight in weights.items()})
    model.save_pretrained(folder)
    write_tokenizer(folder)


def write_tokenizer(folder: Path, words: tuple[str, ...] = (), count: int = VOCABULARY) -> None:
    """A tokenizer with one word for each row of the embeddings."""
    known = ["<pad>", "<s>", "</s>", "<unk>", *words]
    known += [f"w{number}" for number in range(count - len(known))]
    special = [
        {
            "id": i,
            "content": known[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i in range(4)
    ]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: i for i, word in enumerate(known)}, "unk_token": "<unk>"},
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, "pad_token": "<pad>",
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
