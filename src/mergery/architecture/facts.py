"""What a config says of how weights are used, in one spelling, so that two configs can be compared.

Versions of transformers and families write the same fact under different keys: `rope_theta` and `rope_scaling`, or
`rope_parameters`; `n_embd`, `d_model` or `hidden_size`. An absent key is its default in the family's config class, as
`defaults.json` has it (`python -m benchmarks.defaults`); where that is not known it is no fact, and not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mergery.architecture.spelling import scales_if_tied
from mergery.checkpoints.config import Config

# Facts under which the same weights compute something else: models that differ in one do not belong together.
_MEANING: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_dim": ("head_dim", "kv_channels", "d_kv"),
    "hidden_act": ("hidden_act", "hidden_activation", "activation_function", "ff_activation", "dense_act_fn"),
    "partial_rotary_factor": ("partial_rotary_factor", "rotary_pct"),
    "rotary_dim": ("rotary_dim",),
    "qk_rope_head_dim": ("qk_rope_head_dim",),
    "qk_nope_head_dim": ("qk_nope_head_dim",),
    "v_head_dim": ("v_head_dim",),
    "layer_types": ("layer_types", "layers_block_type", "block_types", "attention_types"),
    "no_rope_layers": ("no_rope_layers",),
    "cross_attention_layers": ("cross_attention_layers",),
    "attention_chunk_size": ("attention_chunk_size",),
    "query_pre_attn_scalar": ("query_pre_attn_scalar",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "embedding_multiplier": ("embedding_multiplier", "scale_emb"),
    "residual_multiplier": ("residual_multiplier", "scale_depth"),
    "attention_multiplier": ("attention_multiplier",),
    "logits_scaling": ("logits_scaling", "logit_scale", "lm_head_multiplier", "dim_model_base"),
    "key_multiplier": ("key_multiplier",),
    "attention_in_multiplier": ("attention_in_multiplier",),
    "attention_out_multiplier": ("attention_out_multiplier",),
    "mlp_multipliers": ("mlp_multipliers",),
    "ssm_multipliers": ("ssm_multipliers",),
    "ssm_in_multiplier": ("ssm_in_multiplier",),
    "ssm_out_multiplier": ("ssm_out_multiplier",),
    "routed_scaling_factor": ("routed_scaling_factor",),
    "norm_topk_prob": ("norm_topk_prob",),
    "scoring_func": ("scoring_func",),
    "topk_method": ("topk_method",),
    "n_group": ("n_group",),
    "topk_group": ("topk_group",),
    "parallel_attn": ("parallel_attn", "use_parallel_residual"),
    "alibi": ("alibi",),
    "new_decoder_architecture": ("new_decoder_architecture",),
    "multi_query": ("multi_query",),
}
_VISION: dict[str, tuple[str, ...]] = {
    "vision.model_type": ("model_type",),
    "vision.num_heads": ("num_attention_heads", "num_heads", "attention_heads"),
    "vision.patch_size": ("patch_size",),
    "vision.hidden_act": ("hidden_act",),
    "vision.spatial_merge_size": ("spatial_merge_size",),
}

# Facts that leave the weights' meaning as it is, or nearly: the output takes its donor's, and the plan says so.
_LESSER: dict[str, tuple[str, ...]] = {
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "seq_length", "context_length"),
    "rms_norm_eps": ("rms_norm_eps",),
    "layer_norm_eps": ("layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_epsilon"),
    "num_experts_per_tok": ("num_experts_per_tok",),
    "vocab_size": ("vocab_size",),
    "bos_token_id": ("bos_token_id",),
    "eos_token_id": ("eos_token_id",),
    "pad_token_id": ("pad_token_id",),
}
_NORMS = {
    "rms_norm_eps": "RMSNorm",
    "rms_eps": "RMSNorm",
    "layer_norm_eps": "LayerNorm",
    "layer_norm_epsilon": "LayerNorm",
}

_WINDOW = ("sliding_window", "use_sliding_window")
_ROPE = ("rope_theta", "rope_local_base_freq")
_STATED_BY_WEIGHTS = (
    "hidden_size",
    "vocab_size",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


def _keys() -> Iterator[str]:
    for table in (_MEANING, _VISION, _LESSER):
        for fact, keys in table.items():
            if fact not in _STATED_BY_WEIGHTS:
                yield from keys
    yield from (*_NORMS, *_WINDOW)


KEYS = tuple(dict.fromkeys(key for key in _keys() if key != "model_type"))
"""Keys of a config whose defaults are known: those of all facts but ids of tokens and sizes that the weights tell."""

ALLOWABLE = (
    "model_type", "norm", "tie_word_embeddings", "rope_theta", "rope_scaling", "sliding_window", *_MEANING, *_VISION,
    "adapter_base",
)  # fmt: skip
"""Differences that a recipe may allow by name; the last one is between a model and the one that an adapter on it names."""


def meanings(config: Config) -> dict[str, Any]:
    """All that a config says of what its weights mean, by the names in ALLOWABLE."""
    language = config.language
    absent = defaults(language)
    facts = _take(language, _MEANING, absent)
    heads, hidden = facts.get("num_attention_heads"), facts.get("hidden_size")
    if isinstance(heads, int) and heads > 0:
        facts.setdefault("num_key_value_heads", heads)
        if isinstance(hidden, int):
            facts.setdefault("head_dim", hidden // heads)
    rope = language.get("rope_parameters")
    if isinstance(rope, dict) and "partial_rotary_factor" in rope:
        facts.setdefault("partial_rotary_factor", rope["partial_rotary_factor"])
    facts |= _rope(language, absent) | _window({**{key: absent[key] for key in _WINDOW if key in absent}, **language})
    norms = {kind for key, kind in _NORMS.items() if key in language}
    norms = norms or {kind for key, kind in _NORMS.items() if key in absent}
    if len(norms) == 1:
        facts["norm"] = norms.pop()
    if isinstance(facts.get("layer_types"), list) and set(map(str, facts["layer_types"])) == {"full_attention"}:
        facts["layer_types"] = "full_attention"
    if scales_if_tied(config):
        facts["tie_word_embeddings"] = config.tied is not False
    vision = config.section("vision")
    return facts | (_take(vision, _VISION, defaults(vision)) if vision else {})


def lesser(config: Config) -> dict[str, Any]:
    """What a config says that may differ between models that are merged."""
    return _take(config.language, _LESSER, defaults(config.language))


def defaults(config: Config) -> Mapping[str, Any]:
    """What the keys that a config, or a section of one, leaves out mean for its family; empty where that is not known."""
    return _defaults().get(config.family or "", {})


@cache
def _defaults() -> Mapping[str, Mapping[str, Any]]:
    return json.loads(Path(__file__).with_name("defaults.json").read_text(encoding="utf-8"))


def _take(source: Mapping[str, Any], table: Mapping[str, tuple[str, ...]], absent: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of each fact, under whichever key it stands. One that says null leaves the fact open."""
    found = {}
    for fact, keys in table.items():
        said = source if any(key in source for key in keys) else absent
        value = _first(*map(said.get, keys))
        if value is not None:
            found[fact] = value
    return found


def _rope(source: Mapping[str, Any], absent: Mapping[str, Any]) -> dict[str, Any]:
    """The base of the rotary embedding, and how it is stretched: old keys and new ones in one form."""
    stated = source.get("rope_parameters")
    if isinstance(stated, dict) and stated and all(isinstance(each, dict) for each in stated.values()):
        kinds = dict(stated)  # one for each kind of layer
    elif isinstance(stated, dict):
        kinds = {"": stated}
    else:
        scaling = source.get("rope_scaling")
        theta = source.get("rope_theta", source.get("rotary_emb_base"))
        known = theta is not None or isinstance(scaling, dict) or "rope_scaling" in source or "rope_theta" in absent
        if not known:
            return {}
        kinds = {"": {"rope_theta": theta, **(scaling if isinstance(scaling, dict) else {})}}
        local = source.get("rope_local_base_freq", absent.get("rope_local_base_freq"))
        if local is not None:
            kinds = {"full_attention": kinds[""], "sliding_attention": {"rope_theta": local}}
    fallback = {"sliding_attention": absent.get("rope_local_base_freq", absent.get("rope_theta"))}
    theta = {
        kind: _first(each.get("rope_theta"), fallback.get(kind, absent.get("rope_theta")))
        for kind, each in kinds.items()
    }
    theta = {kind: each for kind, each in theta.items() if each is not None}
    scaling = {kind: _scaling(each) for kind, each in kinds.items()}
    facts: dict[str, Any] = {"rope_scaling": scaling[""] if set(scaling) == {""} else scaling}
    if theta:
        facts["rope_theta"] = theta[""] if set(theta) == {""} else theta
    return facts


def _first(*values: Any) -> Any:
    return next((each for each in values if each is not None), None)


def _scaling(stated: Mapping[str, Any]) -> dict[str, Any]:
    """How positions are stretched; empty where they are not. Sections of image positions say nothing of text."""
    kind = stated.get("rope_type", stated.get("type", "default"))
    if kind in ("default", "mrope", None):
        return {}
    left_out = ("rope_theta", "rope_type", "type", "mrope_section", "partial_rotary_factor")
    rest = {key: value for key, value in stated.items() if key not in left_out and value is not None}
    return {"rope_type": kind, **rest}


def _window(source: Mapping[str, Any]) -> dict[str, Any]:
    """The width of sliding attention; None where it is switched off."""
    if source.get("use_sliding_window") is False:
        return {"sliding_window": None}
    if "sliding_window" not in source:
        return {}
    return {"sliding_window": source["sliding_window"]}
