"""What llama.cpp stores of each family: under which names, in which order of rows, with which settings. Read and written by
the same tables.

Facts are those of llama.cpp's own converters (https://github.com/ggml-org/llama.cpp, MIT) and its graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROTARY = "rotary"  # rows of a head that rotate together are neighbours, where transformers has them half a head apart
ONE = "one"  # a norm's weight with the one that transformers adds when it computes
DECAY = "decay"  # -exp(A_log)
FLAT = "flat"  # without a dimension of one element


@dataclass(frozen=True)
class Family:
    """One architecture of GGUF, and the model type of transformers that has its tensors.

    names:    modules or parameters of transformers, with `{i}` for the layer and `{e}` for the expert, and what GGUF calls
              them. Experts of a layer stand in one tensor.
    settings: keys of GGUF, behind the architecture's name, and of `config.json`.
    fixed:    what llama.cpp takes for granted: entries of `config.json`.
    changes:  what is stored in another way, by the last part of GGUF's name.
    """

    architecture: str
    kind: str
    model_class: str
    names: Mapping[str, str]
    settings: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, str] = field(default_factory=dict)


def _layers(names: Mapping[str, str]) -> dict[str, str]:
    return {f"model.layers.{{i}}.{ours}": f"blk.{{i}}.{theirs}" for ours, theirs in names.items()}


ENDS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
HEADS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
}  # fmt: skip
HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
GATED = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
FOUR_NORMS = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
MIXTRAL_EXPERTS = {
    "block_sparse_moe.gate": "ffn_gate_inp", "block_sparse_moe.experts.{e}.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.{e}.w3": "ffn_up_exps", "block_sparse_moe.experts.{e}.w2": "ffn_down_exps",
}  # fmt: skip
QWEN_EXPERTS = {
    "mlp.gate": "ffn_gate_inp", "mlp.experts.{e}.gate_proj": "ffn_gate_exps", "mlp.experts.{e}.up_proj": "ffn_up_exps",
    "mlp.experts.{e}.down_proj": "ffn_down_exps",
}  # fmt: skip
SHARED_EXPERT = {
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp", "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp",
}  # fmt: skip

DENSE = {**ENDS, **_layers({**NORMS, **HEADS, **GATED})}

SIZES = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size", "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size", "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim", "rope.freq_base": "rope_theta",
}  # fmt: skip
EXPERTS = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}
SILU = {"hidden_act": "silu"}
GEMMA_ACT = {"hidden_activation": "gelu_pytorch_tanh"}
GEMMA_NORMS: dict[str, str] = dict.fromkeys(
    ("attn_norm", "ffn_norm", "output_norm", "post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"), ONE
)
ROTATED = {"attn_q": ROTARY, "attn_k": ROTARY}

FAMILIES: tuple[Family, ...] = (
    Family("llama", "llama", "LlamaForCausalLM", DENSE, SIZES, SILU, ROTATED),
    Family(
        "llama", "mixtral", "MixtralForCausalLM",
        {**ENDS, **_layers({**NORMS, **HEADS, **MIXTRAL_EXPERTS})},
        {**SIZES, "expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}, SILU, ROTATED,
    ),
    Family(
        "llama", "mistral", "MistralForCausalLM", DENSE, {**SIZES, "attention.sliding_window": "sliding_window"}, SILU, ROTATED,
    ),
    Family("qwen2", "qwen2", "Qwen2ForCausalLM", DENSE, SIZES, SILU),
    Family(
        "qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM",
        {**ENDS, **_layers({**NORMS, **HEADS, **QWEN_EXPERTS, **SHARED_EXPERT})},
        {
            **SIZES, **EXPERTS, "expert_feed_forward_length": "moe_intermediate_size",
            "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
        },
        {**SILU, "norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
        {"ffn_gate_inp_shexp": FLAT},
    ),
    Family("qwen3", "qwen3", "Qwen3ForCausalLM", {**DENSE, **_layers(HEAD_NORMS)}, SIZES, SILU),
    Family(
        "qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM",
        {**ENDS, **_layers({**NORMS, **HEADS, **HEAD_NORMS, **QWEN_EXPERTS})},
        {**SIZES, **EXPERTS, "expert_feed_forward_length": "moe_intermediate_size"},
        {**SILU, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    Family("gemma", "gemma", "GemmaForCausalLM", DENSE, SIZES, GEMMA_ACT, GEMMA_NORMS),
    Family(
        "gemma2", "gemma2", "Gemma2ForCausalLM", {**ENDS, **_layers({**FOUR_NORMS, **HEADS, **GATED})},
        {
            **SIZES, "attention.sliding_window": "sliding_window", "attn_logit_softcapping": "attn_logit_softcapping",
            "final_logit_softcapping": "final_logit_softcapping",
        },
        GEMMA_ACT, GEMMA_NORMS,
    ),
    Family(
        "gemma3", "gemma3_text", "Gemma3ForCausalLM", {**ENDS, **_layers({**FOUR_NORMS, **HEADS, **HEAD_NORMS, **GATED})},
        {
            **SIZES, "attention.sliding_window": "sliding_window", "final_logit_softcapping": "final_logit_softcapping",
            "rope.freq_base_swa": "rope_local_base_freq",
        },
        GEMMA_ACT, GEMMA_NORMS,
    ),
    Family(
        "phi3", "phi3", "Phi3ForCausalLM",
        {
            **ENDS,
            **_layers({
                **NORMS, "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up",
                "mlp.down_proj": "ffn_down",
            }),
        },
        {
            **SIZES, "attention.sliding_window": "sliding_window",
            "rope.scaling.original_context_length": "original_max_position_embeddings",
        },
        SILU,
    ),
    Family(
        "olmo2", "olmo2", "Olmo2ForCausalLM",
        {
            **ENDS,
            **_layers({
                **HEADS, **HEAD_NORMS, **GATED, "post_attention_layernorm": "post_attention_norm",
                "post_feedforward_layernorm": "post_ffw_norm",
            }),
        },
        SIZES, SILU,
    ),
    Family(
        "granite", "granite", "GraniteForCausalLM", DENSE,
        {
            **SIZES, "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
        },
        SILU, ROTATED,
    ),
    Family(
        "exaone", "exaone", "ExaoneForCausalLM",
        {
            "transformer.wte": "token_embd", "transformer.ln_f": "output_norm", "lm_head": "output",
            **{
                f"transformer.h.{{i}}.{ours}": f"blk.{{i}}.{theirs}"
                for ours, theirs in {
                    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.attention.q_proj": "attn_q",
                    "attn.attention.k_proj": "attn_k", "attn.attention.v_proj": "attn_v",
                    "attn.attention.out_proj": "attn_output", "mlp.c_fc_0": "ffn_gate", "mlp.c_fc_1": "ffn_up",
                    "mlp.c_proj": "ffn_down",
                }.items()
            },
        },
        {**SIZES, "block_count": "num_layers", "attention.layer_norm_rms_epsilon": "layer_norm_epsilon"},
        {"activation_function": "silu"},
    ),
    Family(
        "mamba", "mamba", "MambaForCausalLM",
        {
            "backbone.embeddings": "token_embd", "backbone.norm_f": "output_norm", "lm_head": "output",
            **{
                f"backbone.layers.{{i}}.{ours}": f"blk.{{i}}.{theirs}"
                for ours, theirs in {
                    "norm": "attn_norm", "mixer.in_proj": "ssm_in", "mixer.conv1d": "ssm_conv1d", "mixer.x_proj": "ssm_x",
                    "mixer.dt_proj": "ssm_dt", "mixer.A_log": "ssm_a", "mixer.D": "ssm_d", "mixer.out_proj": "ssm_out",
                }.items()
            },
        },
        {
            "embedding_length": "hidden_size", "block_count": "num_hidden_layers", "ssm.conv_kernel": "conv_kernel",
            "ssm.inner_size": "intermediate_size", "ssm.state_size": "state_size", "ssm.time_step_rank": "time_step_rank",
            "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
        },
        SILU,
        {"ssm_a": DECAY, "ssm_conv1d": FLAT},
    ),
)  # fmt: skip


def family_of_architecture(architecture: str, *, experts: bool, window: bool) -> Family | None:
    """The family of a GGUF file. Mistral and Mixtral stand in files of the architecture `llama`: the one has a sliding
    window, the other experts.
    """
    found = [family for family in FAMILIES if family.architecture == architecture]
    if architecture == "llama":
        wanted = "mixtral" if experts else "mistral" if window else "llama"
        return next(family for family in found if family.kind == wanted)
    return found[0] if found else None


def family_of_kind(kind: str | None) -> Family | None:
    """The family with a model type of transformers."""
    return next((family for family in FAMILIES if family.kind == kind), None)


def architectures() -> list[str]:
    """The architectures of GGUF that are known here."""
    return sorted({family.architecture for family in FAMILIES})
