"""A `config.json` made of a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.gguf.families import Family
from mergery.checkpoints.gguf.metadata import Metadata
from mergery.checkpoints.gguf.rotation import Scaling, read_scaling

LARGE_GEMMA = {
    "gemma2": 46,
    "gemma3": 62,
}  # layers of those that scale attention by the width of a head of the hidden size
SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
SAID = (
    "vocab_size", "rope.dimension_count", "attention.value_length", "attention.key_length_swa", "attention.value_length_swa",
    "attention.sliding_window_pattern", "ssm.dt_b_c_rms", "rope.dimension_count_swa", "attention.causal", "context_length",
    "feed_forward_length", "attention.head_count",
)  # fmt: skip
"""Keys that are read beside a family's settings, or say nothing more."""


def keys_unread(family: Family, metadata: Metadata) -> list[str]:
    """Keys of the architecture that nothing here understands: the config does not say what they do."""
    short = {key: key.removeprefix(metadata.prefix) for key in metadata.all if key.startswith(metadata.prefix)}
    known = (*family.settings, *SAID)
    return [key for key, each in short.items() if each not in known and not each.startswith("rope.scaling.")]


def config_of(
    family: Family,
    metadata: Metadata,
    tensors: Mapping[str, TensorInfo],
    values: Callable[[str], list[float]],
    dtype: str,
) -> dict[str, Any]:
    """The config of a file. `values` reads a small tensor whole; `dtype` is that of most weights."""
    config: dict[str, Any] = {"architectures": [family.model_class], "model_type": family.kind, **family.fixed}
    optional = ("window", "softcapping", "key_length", "scale", "swa", "rope", "head_count_kv", "shared", "expert_feed")
    for key, ours in family.settings.items():
        value = metadata.get(key) if any(word in key for word in optional) else metadata.need(key)
        if value is not None:
            config[ours] = value
    if "attention.head_count" in family.settings:
        _attention(family, config, metadata, tensors, values)
    else:
        config |= {"use_conv_bias": "blk.0.ssm_conv1d.bias" in tensors, "use_bias": "blk.0.ssm_in.bias" in tensors}
    config["vocab_size"] = tensors["token_embd.weight"].shape[0]
    config["tie_word_embeddings"] = "output.weight" not in tensors
    for role, ours in SPECIAL.items():
        number = metadata.all.get(f"tokenizer.ggml.{role}_token_id")
        config[ours] = number if type(number) is int else None  # else a family's own, which is one model's
    return config | {"dtype": dtype}


def _attention(
    family: Family,
    config: dict[str, Any],
    metadata: Metadata,
    tensors: Mapping[str, TensorInfo],
    values: Callable[[str], list[float]],
) -> None:
    """Heads, their width and rotation, and what else families with attention have."""
    heads, width = metadata.size("attention.head_count"), metadata.size("embedding_length")
    config.setdefault("num_key_value_heads", heads)
    head = config.setdefault("head_dim", width // heads)
    rotated = metadata.get("rope.dimension_count") or head
    if rotated != head:
        if family.kind != "phi3":
            why = f"{rotated} of {head} dimensions of a head rotate, and a {family.kind} of transformers rotates all"
            raise metadata.error("this model rotates part of each head", why)
        config["partial_rotary_factor"] = rotated / head
    if family.kind in ("granite", "exaone") and head != width // heads:
        why = f"a head has {head} dimensions, and transformers would take {width // heads}"
        raise metadata.error("this model's heads have another width", why)
    if family.kind in ("granite", "phi3"):
        del config["head_dim"]
    scaling = read_scaling(metadata, tensors, values, Scaling(head, float(config.get("rope_theta", 10000.0))))
    if family.kind == "phi3" and scaling and scaling["rope_type"] == "longrope":
        scaling = {key: scaling[key] for key in ("rope_type", "short_factor", "long_factor")}
    if scaling:
        config["rope_scaling"] = scaling
    if family.kind in ("gemma2", "gemma3_text"):
        large = metadata.get("block_count") == LARGE_GEMMA[family.architecture]
        config["query_pre_attn_scalar"] = width // heads if large else head
        config["layer_types"] = _layer_types(metadata, 2 if family.kind == "gemma2" else 6)
    if family.kind == "gemma2":
        config.setdefault("attn_logit_softcapping", 50.0)
        config.setdefault("final_logit_softcapping", 30.0)
    if family.kind in ("mistral", "phi3") and not config.get("sliding_window"):
        config["sliding_window"] = None
    if family.kind in ("llama", "granite", "olmo2", "qwen3", "qwen3_moe"):
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
        config["mlp_bias"] = "blk.0.ffn_gate.bias" in tensors


def _layer_types(metadata: Metadata, every: int) -> list[str]:
    """Which layers see the whole context: every second of gemma 2, every sixth of gemma 3, or as the file says."""
    count = metadata.size("block_count", 1 << 16)
    pattern = metadata.all.get(f"{metadata.prefix}attention.sliding_window_pattern")
    if type(pattern) is int and pattern > 0:
        every = pattern
    if isinstance(pattern, list) and len(pattern) == count:
        return ["sliding_attention" if each else "full_attention" for each in pattern]
    if not metadata.get("attention.sliding_window"):
        return ["full_attention"] * count
    return ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(count)]
