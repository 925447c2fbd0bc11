"""A small Llama, and models that compute the same in other coordinates: permuted, wider, deeper, scaled."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.evaluation.conftest import train_tokenizer, words

WIDTH, INNER, HEADS, GROUPS, DIM = 32, 48, 4, 2, 8


def small(seed: int = 0, layers: int = 2, **changes: Any) -> LlamaForCausalLM:
    """A model with random weights large enough that its layers differ."""
    settings = {
        "vocab_size": 128, "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": layers,
        "num_attention_heads": HEADS, "num_key_value_heads": GROUPS, "head_dim": DIM, "max_position_embeddings": 64,
        "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **changes,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.uniform_(0.7, 1.3)
    return model.eval()


def save(model: Any, folder: Path, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    (tokenizer or train_tokenizer()).save_pretrained(folder)
    return folder


def write_texts(path: Path, count: int = 120, seed: int = 0) -> Path:
    rng = random.Random(seed)
    path.write_text("".join(f"{words(rng, rng.randint(8, 14))}\n" for _ in range(count)))
    return path


def changed(model: LlamaForCausalLM, config: LlamaConfig, state: dict[str, Tensor]) -> LlamaForCausalLM:
    made = LlamaForCausalLM(config)
    made.load_state_dict(state)
    return made.eval()


def permuted(model: LlamaForCausalLM, seed: int = 1) -> LlamaForCausalLM:
    """Residual dimensions, groups of heads and inner neurons in other orders."""
    generator = torch.Generator().manual_seed(seed)
    width = torch.randperm(WIDTH, generator=generator)
    state = {}
    for name, value in model.state_dict().items():
        state[name] = value[..., width] if value.shape[-1] == WIDTH else value
    per = HEADS // GROUPS * DIM
    for layer in range(model.config.num_hidden_layers):
        before = f"model.layers.{layer}."
        group = torch.randperm(GROUPS, generator=generator)
        queries = (group[:, None] * per + torch.arange(per)).reshape(-1)
        keys = (group[:, None] * DIM + torch.arange(DIM)).reshape(-1)
        inner = torch.randperm(INNER, generator=generator)
        out = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "o_proj": width, "gate_proj": inner, "up_proj": inner}
        for name in [name for name in state if name.startswith(before) and "proj" in name]:
            module, kind = name.split(".")[-2:]
            state[name] = state[name][out.get(module, width)]
            if kind == "weight" and module in ("o_proj", "down_proj"):
                original = model.state_dict()[name]
                state[name] = original[width][:, queries if module == "o_proj" else inner]
    return changed(model, model.config, state)


def widened(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Every residual dimension, group of heads and inner neuron twice: to a matrix's outputs twice, to its inputs by halves."""
    config = copy.deepcopy(model.config)
    config.hidden_size, config.intermediate_size = 2 * WIDTH, 2 * INNER
    config.num_attention_heads, config.num_key_value_heads = 2 * HEADS, 2 * GROUPS
    state = {}
    for name, value in model.state_dict().items():
        if "norm" in name:
            state[name] = value.repeat(2)
        elif "embed_tokens" in name:
            state[name] = value.repeat(1, 2)
        elif "lm_head" in name:
            state[name] = value.repeat(1, 2) / 2
        else:
            state[name] = value.repeat(2, 2) / 2
    return changed(model, config, state)


def deepened(model: LlamaForCausalLM, places: tuple[int, ...]) -> LlamaForCausalLM:
    """Blocks that add nothing behind some layers: copies whose outputs are zero."""
    config = copy.deepcopy(model.config)
    order = [layer for layer in range(config.num_hidden_layers) for _ in range(1 + (layer in places))]
    config.num_hidden_layers = len(order)
    state = {name: value for name, value in model.state_dict().items() if ".layers." not in name}
    generator = torch.Generator().manual_seed(5)
    for new, layer in enumerate(order):
        idle = new > 0 and order[new - 1] == layer
        for name, value in model.state_dict().items():
            if name.startswith(f"model.layers.{layer}."):
                rest = name.split(".", 3)[3]
                fresh = torch.randn(value.shape, generator=generator) * 0.3 if idle and "proj" in name else value
                state[f"model.layers.{new}.{rest}"] = (
                    torch.zeros_like(value) if idle and ("o_proj" in name or "down_proj" in name) else fresh
                )
    return changed(model, config, state)


def logits(model: Any, seed: int = 3) -> Tensor:
    """What a model says to some tokens."""
    ids = torch.randint(2, 128, (4, 12), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(ids).logits


def error(found: Tensor, wanted: Tensor) -> float:
    """Their distance, relative to the size of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())
