"""The parts of a config that depend on depth, rewritten for another stack of layers."""

from __future__ import annotations

from typing import Any

from weft.architecture import DEPTH_KEYS, MOST_LAYERS, text_config
from weft.errors import PlanError

_LISTS = {  # one entry for each layer
    "layer_types", "mlp_layer_types", "layers_block_type", "block_types", "attention_layers", "no_rope_layers",
    "layers_types", "hybrid_layer_types", "sliding_window_pattern_list", "moe_layer_freq", "num_key_value_heads_per_layer",
    "layer_type_list", "rope_layers", "attn_types",
}  # fmt: skip
_INDICES = {  # numbers of layers
    "mlp_only_layers", "cross_attention_layers", "full_attention_idxs", "attn_layer_indices", "full_attention_layers",
    "attn_layer_idx", "moe_layers", "dense_layers", "global_attn_layers",
}  # fmt: skip


def restack_config(config: dict[str, Any], source_layers: list[int], depth: int) -> tuple[dict[str, Any], list[str]]:
    """The config of a model whose layer i was layer `source_layers[i]` of a model with `depth` layers.

    Returns the new config and warnings about entries that may depend on depth in a way that is not known.
    """
    import copy

    result = copy.deepcopy(config)
    section = text_config(result)
    assert isinstance(section, dict)
    warnings: list[str] = []
    for key in DEPTH_KEYS:
        if isinstance(section.get(key), int):
            section[key] = len(source_layers)
    for key, value in section.items():
        if key == "attention_types" and isinstance(value, list):
            section[key] = _restack_attention_types(value, source_layers)
        elif key in _INDICES and isinstance(value, list) and all(isinstance(item, int) for item in value):
            section[key] = [new for new, old in enumerate(source_layers) if old in value]
        elif isinstance(value, list) and _one_for_each_layer(key, value, depth):
            section[key] = [value[old] for old in source_layers]
    dense = section.get("first_k_dense_replace")
    if isinstance(dense, int) and depth:
        flags = [old < dense for old in source_layers]
        section["first_k_dense_replace"] = flags.index(False) if False in flags else len(flags)
        if any(flags[section["first_k_dense_replace"] :]):
            warnings.append("dense layers stand behind sparse ones: first_k_dense_replace cannot say so")
    window = section.get("max_window_layers")
    if isinstance(window, int) and window >= depth:
        section["max_window_layers"] = len(source_layers)
    return result, warnings


def _one_for_each_layer(key: str, value: list[Any], depth: int) -> bool:
    """Whether a config's list has an entry for each layer; some models write more than they have layers."""
    if key in _LISTS:
        return len(value) >= depth > 0
    return "layer" in key and len(value) == depth


def _restack_attention_types(value: list[Any], source_layers: list[int]) -> list[Any]:
    """GPT-Neo writes [[["global", "local"], 12]]: a pattern and its count."""
    flat: list[Any] = []
    for entry in value:
        match entry:
            case [list(pattern), int(times)] if 0 <= len(pattern) * times <= MOST_LAYERS:
                flat += pattern * times
            case _:
                raise PlanError(
                    f"config.json has attention_types of {entry!r}", why="it should be a pattern and its count"
                )
    if max(source_layers) >= len(flat):
        raise PlanError(f"config.json gives the attention of {len(flat)} layers, but there are more")
    return [[[flat[old]], 1] for old in source_layers]
