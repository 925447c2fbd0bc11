"""Tiny models of many families, and whether two of them compute the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

PLAIN = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
    "v_head_dim": 8, **EXPERTS,
}  # fmt: skip
STATE = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 4, "state_size": 8, "expand": 2, "conv_kernel": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES = {
    "llama": PLAIN | {"attention_bias": True, "mlp_bias": True},
    "mistral": PLAIN | {"head_dim": 8, "sliding_window": 4},
    "qwen2": PLAIN | {"tie_word_embeddings": True},
    "qwen3": PLAIN | {"head_dim": 8},
    "qwen2_moe": PLAIN | EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 32, "mlp_only_layers": [1]},
    "qwen3_moe": PLAIN | EXPERTS | {"head_dim": 8, "num_experts": 4, "decoder_sparse_step": 2},
    "mixtral": PLAIN | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gemma": PLAIN | {"head_dim": 8},
    "gemma2": PLAIN | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "gemma3_text": PLAIN | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "olmo2": PLAIN,
    "granite": PLAIN | {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "phi3": PLAIN,
    "gpt2": GPT,
    "phi": PLAIN,
    "gpt_neox": PLAIN,
    "gptj": GPT | {"rotary_dim": 4},
    "gpt_neo": {
        "vocab_size": 64, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": 4,
        "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2,
    },
    "falcon": PLAIN | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "cohere2": PLAIN | {"sliding_window": 4},
    "cohere": PLAIN,
    "exaone4": PLAIN | {"head_dim": 8, "sliding_window": 4},
    "olmo": PLAIN,
    "smollm3": PLAIN,
    "stablelm": PLAIN,
    "starcoder2": PLAIN,
    "deepseek_v2": PLAIN | LATENT | {"topk_method": "greedy"},
    "deepseek_v3": PLAIN | LATENT,
    "mamba": STATE | {"time_step_rank": 4},
    "mamba2": STATE | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
}  # fmt: skip


def make(folder: Path, family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: object) -> Path:
    """A tiny model with random biases and gains, too, so that nothing is neutral by chance."""
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[family](**FAMILIES.get(family, PLAIN) | changes)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.to(dtype).save_pretrained(folder)
    return folder


TOKENS = torch.tensor([[1, 5, 9, 33, 7, 60, 3, 12]])


def load(folder: Path) -> torch.nn.Module:
    """A model of which nothing is missing or left over."""
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not found["missing_keys"], found
    assert not found["unexpected_keys"], found
    assert not found["mismatched_keys"], found
    return model.eval()


@torch.no_grad()
def forward(folder: Path) -> torch.Tensor:
    """Logits of a few tokens."""
    return load(folder)(TOKENS, use_cache=False).logits


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    """Logits of a few tokens. Token by token with a cache, generation must agree with them."""
    model = load(folder)
    whole = model(TOKENS, use_cache=False).logits
    assert torch.isfinite(whole).all()
    made = model.generate(
        TOKENS, max_new_tokens=4, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=True,
        output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    again = model(made.sequences[:, :-1]).logits[:, TOKENS.shape[1] - 1 :]
    torch.testing.assert_close(torch.stack(made.logits, 1), again, rtol=1e-3, atol=1e-4)
    return whole


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-5) -> bool:
    """Whether logits agree to a tolerance relative to their range."""
    return bool((a - b).abs().max() <= tolerance * a.abs().max())


@pytest.fixture
def merged(mergery, tmp_path) -> Callable[[str], Path]:
    """The folder that a recipe, merged through the command line, gives."""

    def run(text: str, name: str = "out") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        outcome = mergery("merge", path, tmp_path / name)
        assert outcome.code == 0, outcome.err
        return tmp_path / name

    return run
