"""Tiny models of transformers written as GGUF with the package `gguf` alone: its writer, its map of names, and what llama.cpp's
converter does to values. Nothing of Mergery's own tables is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen2_moe": "qwen2moe", "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe", "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3", "phi3": "phi3", "olmo2": "olmo2",
    "granite": "granite", "mamba": "mamba",
}  # fmt: skip


def write_gguf(model: Any, path: Path, kind: Any = None) -> Path:
    """A causal language model in one file; matrices in the type `kind` of ggml, float32 where it is None."""
    import gguf

    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, architecture)
    _settings(writer, config)
    _words(writer, config.vocab_size)
    state = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    if model.config.model_type != "mamba" and model.config.rope_parameters.get("rope_type") == "llama3":
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        plain = config.rope_parameters["rope_theta"] ** (-torch.arange(0, head, 2) / head)
        writer.add_tensor("rope_freqs.weight", (plain / ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0]).numpy())
    for name, tensor in _apart(state):
        stem, dot, suffix = name.rpartition(".")
        stem, suffix = (stem, dot + suffix) if suffix in ("weight", "bias") else (name, "")
        theirs = names.get_name(stem.replace(".mlp.experts", ".block_sparse_moe.experts") if "w1" in stem else stem)
        assert theirs is not None, name
        values = np.ascontiguousarray(_stored(architecture, theirs, tensor, config).numpy())
        if kind is not None and values.ndim > 1 and values.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0:
            writer.add_tensor(theirs + suffix, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs + suffix, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _settings(writer: Any, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    if config.model_type == "mamba":
        writer.add_context_length(1 << 20)
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_ssm_conv_kernel(config.conv_kernel)
        writer.add_ssm_inner_size(config.intermediate_size)
        writer.add_ssm_state_size(config.state_size)
        writer.add_ssm_time_step_rank(config.time_step_rank)
        writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(int(head * rope.get("partial_rotary_factor", 1)))
    if config.model_type not in ("phi3", "granite"):
        writer.add_key_length(head)
        writer.add_value_length(head)
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
    if config.model_type.startswith("qwen") and experts:
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    if config.model_type == "qwen2_moe":
        writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    if config.model_type in ("gemma2", "gemma3_text", "mistral", "phi3"):
        writer.add_sliding_window(config.sliding_window or 0)
    if config.model_type == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if config.model_type == "gemma3_text":
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
    if config.model_type == "granite":
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)


def _words(writer: Any, count: int) -> None:
    """A byte-level tokenizer of single bytes, as far as the rows go."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    words = [*bytes_to_unicode().values()][:count]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words + [f"[PAD{number}]" for number in range(len(words), count)])
    writer.add_token_types([1] * len(words) + [5] * (count - len(words)))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _apart(state: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """The tensors as GGUF has them: experts stacked, gate and up apart, under names that the map knows."""
    found: list[tuple[str, torch.Tensor]] = []
    for name, tensor in state.items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix(".gate_up_proj")
            gate, up = tensor.chunk(2, dim=1)
            found += [(f"{stem}.gate_proj.weight", gate), (f"{stem}.up_proj.weight", up)]
        elif name.endswith("experts.down_proj"):
            found.append((f"{name}.weight", tensor))
        else:
            found.append((name, tensor))
    return found


def _stored(architecture: str, name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """The values as llama.cpp has them."""
    if architecture in ("llama", "granite") and name.endswith(("attn_q", "attn_k")):
        heads = config.num_attention_heads if name.endswith("attn_q") else config.num_key_value_heads
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        return halves.swapaxes(1, 2).reshape(tensor.shape)
    if architecture.startswith("gemma") and name.endswith("norm"):
        return tensor + 1
    if name.endswith("ssm_a"):
        return -torch.exp(tensor)
    if name.endswith(("ssm_conv1d", "ffn_gate_inp_shexp")) and 1 in tensor.shape:
        return tensor.squeeze()
    return tensor
