"""The parts of a config that depend on depth, rewritten for another stack of layers.

A config says in several ways what its layers are: by a list, by the numbers of some layers, by a period, by a first or a
last layer. Each is read as one value for each layer, carried along with the layers, and written again in the same
words where they still hold, else as a list where the family reads one. What cannot be said is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergery.architecture.names import MOST_LAYERS
from mergery.checkpoints.config import DEPTHS, Config
from mergery.errors import PlanError

_LISTS = {  # one entry for each layer
    "layer_types", "mlp_layer_types", "layers_block_type", "block_types", "attention_layers", "no_rope_layers",
    "layers_types", "hybrid_layer_types", "sliding_window_pattern_list", "moe_layer_freq", "num_key_value_heads_per_layer",
    "layer_type_list", "rope_layers", "attn_types",
}  # fmt: skip
_SIZES = {  # one number for all layers, or one for each
    "intermediate_size", "num_key_value_heads", "num_attention_heads", "num_kv_heads", "num_query_heads", "ffn_multipliers",
    "activation_sparsity_pattern", "block_configs", "attention_window", "hybrid_override_pattern",
}  # fmt: skip
_INDICES = {  # numbers of layers
    "mlp_only_layers", "cross_attention_layers", "full_attention_idxs", "full_attn_idxs", "attn_layer_indices",
    "full_attention_layers", "attn_layer_idx", "moe_layers", "dense_layers", "global_attn_layers", "hybrid_layer_ids",
}  # fmt: skip
_AHEAD = ("num_nextn_predict_layers", "num_mtp_layers")  # layers behind the stack that predict further tokens
_LEADING = ("first_k_dense_replace", "num_dense_layers")  # so many dense layers before the sparse ones


@dataclass(frozen=True)
class Origin:
    """Where a layer of a stack comes from: a layer of a model, and the part of its config that describes it."""

    section: Mapping[str, Any]
    layer: int
    depth: int


def restack_config(config: Config, origins: Sequence[Origin], depth: int) -> tuple[Config, list[str]]:
    """The config of a model whose layer i comes from `origins[i]`. All else is the given one's, of `depth` layers.

    Returns the new config, and warnings about what other programs may read otherwise. Raises PlanError where the
    config's own words cannot describe the new stack.
    """
    section = config.language.plain()
    for key in DEPTHS:
        if isinstance(section.get(key), int):
            section[key] = len(origins)
    moved = [(origin.layer, origin.depth) for origin in origins] != [(i, len(origins)) for i in range(len(origins))]
    if moved:
        _refuse(section)
    _restack_lists(section, origins, depth)
    warnings: list[str] = []
    for rule in (_restack_types, _restack_window, _restack_rope, _restack_sparse, _restack_leading, _restack_tail):
        warnings += rule(section, origins)
    for period in _PERIODS:
        _keep_period(section, origins, period)
    for key in _AHEAD:
        if section.get(key):
            section[key] = 0
            warnings.append(f"{key} is 0 in the output: the layers that predict further tokens are not stacked")
    return config.with_language(section), warnings


def _refuse(section: Mapping[str, Any]) -> None:
    """What makes a layer's weights depend on its number in other ways."""
    if section.get("hidden_size_per_layer_input"):
        raise PlanError(
            "the layers of this model cannot be stacked",
            why="it keeps inputs for all its layers in one tensor (hidden_size_per_layer_input)",
            hint="merge it whole, without a 'stack'",
        )
    if section.get("scale_attn_by_inverse_layer_idx"):
        raise PlanError(
            "the layers of this model cannot be moved",
            why="it divides attention by the layer's number (scale_attn_by_inverse_layer_idx)",
            hint="merge it whole, without a 'stack'",
        )


# --- lists ---------------------------------------------------------------------------------------------------------


def _restack_lists(section: dict[str, Any], origins: Sequence[Origin], depth: int) -> None:
    for key, value in list(section.items()):
        if key == "attention_types" and isinstance(value, list):
            flat = [_flatten_attention_types(origin.section.get(key)) for origin in origins]
            section[key] = [[[_entry(key, types, o)], 1] for types, o in zip(flat, origins, strict=True)]
        elif key in _INDICES and isinstance(value, list) and all(isinstance(item, int) for item in value):
            section[key] = [new for new, o in enumerate(origins) if o.layer in (o.section.get(key) or ())]
        elif isinstance(value, list) and value and _one_for_each_layer(key, value, depth):
            section[key] = [_entry(key, o.section.get(key), o) for o in origins]
        elif key in _SIZES and isinstance(value, str) and len(value) == depth:  # a letter for each layer
            section[key] = "".join(_entry(key, o.section.get(key), o) for o in origins)


def _one_for_each_layer(key: str, value: list[Any], depth: int) -> bool:
    """Whether a config's list has an entry for each layer; some models write more than they have layers."""
    if key in _LISTS:
        return depth > 0
    return (key in _SIZES or "layer" in key) and len(value) == depth


def _entry(key: str, value: Any, origin: Origin) -> Any:
    if not isinstance(value, (list, str)) or origin.layer >= len(value):
        count = len(value) if isinstance(value, (list, str)) else "no"
        what = f"config.json gives the {key} of {count} layers, but there are {origin.depth}"
        raise PlanError(what, hint="mend the model's config.json, or download the model again")
    return value[origin.layer]


def _flatten_attention_types(value: Any) -> list[Any]:
    """GPT-Neo writes [[["global", "local"], 12]]: a pattern and its count."""
    flat: list[Any] = []
    for entry in value or ():
        match entry:
            case [list(pattern), int(times)] if 0 <= len(pattern) * times <= MOST_LAYERS:
                flat += pattern * times
            case _:
                raise PlanError(
                    f"config.json has attention_types of {entry!r}",
                    why="it should be a pattern and its count",
                    hint="mend the model's config.json",
                )
    return flat


# --- kinds of attention --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kinds:
    """Attention by a period: every `default`-th layer, or as `key` says, has the wide kind."""

    key: str | None
    default: int | None
    wide: str = "full_attention"
    narrow: str = "sliding_attention"
    first: bool = False  # the wide layer is the first of each period, not the last


_PATTERN = _Kinds("sliding_window_pattern", None)
_KINDS = {
    "gemma2": _Kinds(None, 2),
    "gemma3_text": _Kinds("sliding_window_pattern", 6),
    "gemma3n_text": _Kinds(None, 5),
    "cohere2": _Kinds("sliding_window_pattern", 4),
    "exaone4": _Kinds("sliding_window_pattern", 4),
    "gpt_oss": _Kinds(None, 2),
    "olmo3": _Kinds(None, 4),
    "qwen3_next": _Kinds("full_attention_interval", 4, narrow="linear_attention"),
    "modernbert": _Kinds("global_attn_every_n_layers", 3, first=True),
}


def attention_kinds(section: Mapping[str, Any], depth: int) -> list[str] | None:
    """What `layer_types` would say, where the config leaves it to a period; None where it has none."""
    kinds = _KINDS.get(section.get("model_type", ""), _PATTERN)
    period = section.get(kinds.key, kinds.default) if kinds.key else kinds.default
    if isinstance(period, str) and kinds.key == "sliding_window_pattern":  # such as LLLG
        period = len(period)
    if not isinstance(period, int) or period < 1 or ("sliding_window" in section and section["sliding_window"] is None):
        return None
    place = 0 if kinds.first else 1
    return [kinds.narrow if (layer + place) % period else kinds.wide for layer in range(depth)]


def _restack_types(section: dict[str, Any], origins: Sequence[Origin]) -> list[str]:
    """The kinds of attention that a period gives; as a list where the period no longer holds."""
    kinds = _KINDS.get(section.get("model_type", ""), _PATTERN)
    implied = attention_kinds(section, len(origins))
    wanted = section.get("layer_types")
    if not isinstance(wanted, list):
        each = [attention_kinds(o.section, o.depth) for o in origins]
        wanted = [types[o.layer] for types, o in zip(each, origins, strict=True) if types]
        if len(wanted) < len(origins) or wanted == implied:
            return []
        section["layer_types"] = wanted
    if kinds.key not in section or implied is None or wanted == implied:
        return []
    del section[kinds.key]
    return [f"{kinds.key} no longer holds and is left out: layer_types says what each layer is"]


def _restack_window(section: dict[str, Any], origins: Sequence[Origin]) -> list[str]:
    """Qwen's `max_window_layers`: from this layer on, attention has a window, where windows are used at all."""
    if not isinstance(section.get("max_window_layers"), int):
        return []
    inside = [o.layer < o.section.get("max_window_layers", o.depth) for o in origins]
    first = inside.index(False) if False in inside else len(inside)
    holds = not any(inside[first:])
    section["max_window_layers"] = first
    if holds or not section.get("use_sliding_window") or not section.get("sliding_window"):
        return []
    if not isinstance(section.get("layer_types"), list):
        section["layer_types"] = ["full_attention" if each else "sliding_attention" for each in inside]
    return ["max_window_layers no longer holds: layer_types says what each layer is"]


def _restack_rope(section: dict[str, Any], origins: Sequence[Origin]) -> list[str]:
    """Every n-th layer without rotary positions, where no list says which."""
    if section.get("model_type") not in ("llama4_text", "smollm3") or section.get("no_rope_layers"):
        return []

    def rotated(period: int, layer: int) -> int:
        return int((layer + 1) % period != 0)

    wanted = [rotated(o.section.get("no_rope_layer_interval", 4), o.layer) for o in origins]
    if wanted != [rotated(section.get("no_rope_layer_interval", 4), layer) for layer in range(len(wanted))]:
        section["no_rope_layers"] = wanted
    return []


# --- mixtures of experts -------------------------------------------------------------------------------------------


def _restack_sparse(section: dict[str, Any], origins: Sequence[Origin]) -> list[str]:
    """Which layers have experts, by a step: Qwen's with exceptions (already restacked), Llama 4's with a list."""

    def stepped(each: Mapping[str, Any], key: str, layer: int) -> bool:
        return (layer + 1) % max(each.get(key) or 1, 1) == 0

    if isinstance(section.get("decoder_sparse_step"), int):
        key, dense = "decoder_sparse_step", set(section.get("mlp_only_layers") or ())
        wanted = [i not in dense and stepped(o.section, key, o.layer) for i, o in enumerate(origins)]
        if wanted != [i not in dense and stepped(section, key, i) for i in range(len(origins))]:
            section["decoder_sparse_step"] = 1
            section["mlp_only_layers"] = [i for i, sparse in enumerate(wanted) if not sparse]
    key = "interleave_moe_layer_step"
    if isinstance(section.get(key), int):
        listed = isinstance(section.get("moe_layers"), list)
        sparse = [
            i in section["moe_layers"] if listed else stepped(o.section, key, o.layer) for i, o in enumerate(origins)
        ]
        if sparse != [stepped(section, key, i) for i in range(len(origins))]:
            section["moe_layers"] = [i for i, each in enumerate(sparse) if each]
            return [f"{key} no longer holds: moe_layers says which layers have experts"]
    return []


def _restack_leading(section: dict[str, Any], origins: Sequence[Origin]) -> list[str]:
    """Dense layers before the sparse ones, which may come at a step."""
    for key in _LEADING:
        if not isinstance(section.get(key), int):
            continue

        def dense(each: Mapping[str, Any], layer: int, key: str = key) -> bool:
            step = each.get("moe_layer_freq")
            return layer < each.get(key, 0) or (isinstance(step, int) and step > 1 and layer % step != 0)

        wanted = [dense(o.section, o.layer) for o in origins]
        section[key] = wanted.index(False) if False in wanted else len(wanted)
        if wanted != [dense(section, layer) for layer in range(len(wanted))]:
            if not isinstance(section.get("mlp_layer_types"), list):
                raise PlanError(
                    f"{key} cannot describe this stack",
                    why="it counts the dense layers before the sparse ones, and here they are mixed",
                    hint="keep the dense layers first, each as often as you like",
                )
            return [f"{key} no longer holds: mlp_layer_types says which layers have experts"]
    return []


# --- the rest ------------------------------------------------------------------------------------------------------


def _restack_tail(section: dict[str, Any], origins: Sequence[Origin]) -> list[str]:
    """The last layers, which take keys and values from a layer before them."""
    key = "num_kv_shared_layers"
    if not section.get(key):
        return []
    shared = [o.layer >= o.depth - (o.section.get(key) or 0) for o in origins]
    first = shared.index(True) if True in shared else len(shared)
    if not all(shared[first:]) or first == 0:
        raise PlanError(
            f"{key} cannot describe this stack",
            why="the layers that share keys and values must be the last, behind some that have their own",
            hint="let the last slice end with the model's last layers",
        )
    section[key] = len(shared) - first
    return []


@dataclass(frozen=True)
class _Period:
    """What each layer is by its number: kept where it still holds, refused where it does not."""

    keys: tuple[str, ...]
    value: Callable[[Mapping[str, Any], int, int], Any]  # of (config, layer, depth)
    what: str


def _ernie_sparse(section: Mapping[str, Any], layer: int, depth: int) -> bool:
    start, end = section.get("moe_layer_start_index", 0), section.get("moe_layer_end_index", -1)
    return (layer + 1) % section["moe_layer_interval"] == 0 and start <= layer <= (depth - 1 if end == -1 else end)


_PERIODS = (
    _Period(
        ("attn_layer_period", "attn_layer_offset"),
        lambda s, layer, _: layer % s["attn_layer_period"] == s["attn_layer_offset"],
        "which layers have attention",
    ),
    _Period(
        ("expert_layer_period", "expert_layer_offset"),
        lambda s, layer, _: layer % s["expert_layer_period"] == s["expert_layer_offset"],
        "which layers have experts",
    ),
    _Period(("moe_layer_interval",), _ernie_sparse, "which layers have experts"),
    _Period(
        ("cla_share_factor",),
        lambda s, layer, _: bool(s.get("use_cla")) and layer % s["cla_share_factor"],
        "which layers have keys and values of their own",
    ),
    _Period(
        ("layer_group_size",),
        lambda s, layer, depth: (
            (layer + 1) % s["layer_group_size"] == 0 or layer >= depth // s["layer_group_size"] * s["layer_group_size"]
        ),
        "which layers have full attention",
    ),
)


def _keep_period(section: Mapping[str, Any], origins: Sequence[Origin], period: _Period) -> None:
    known = (section, *(o.section for o in origins))
    if not all(isinstance(each.get(key), int) and each[key] >= 0 for each in known for key in period.keys):
        return
    if not all(each[period.keys[0]] for each in known):
        return
    wanted = [period.value(o.section, o.layer, o.depth) for o in origins]
    if wanted != [period.value(section, layer, len(origins)) for layer in range(len(origins))]:
        raise PlanError(
            f"{period.keys[0]} cannot describe this stack",
            why=f"it says by a period {period.what}, and here the period is broken",
            hint=f"stack whole periods of {section[period.keys[0]]} layers",
        )
