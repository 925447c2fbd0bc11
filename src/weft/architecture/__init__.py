"""Roles and layers from tensor names and config; there is no file for each architecture.

Knowledge refines a merge (gradients, filters, stacks); its absence never loses a weight: a name that nothing here
understands has the role `other` and no layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from weft.architecture.roles import ROLES, roles_of
from weft.architecture.sections import PARTS, part_of, text_config
from weft.checkpoints.base import TensorInfo
from weft.errors import PlanError

_NUMBER = re.compile(r"\.(\d{1,6})\.")
_STACK = re.compile(r"(^|\.)(layers?|blocks?|h|resblocks|stages|encoders)$")
_NUMBERS = re.compile(r"(?<![^.])\d+(?=\.)")

__all__ = [
    "PARTS", "ROLES", "Architecture", "Part", "config_depth", "part_of", "read_architecture", "restack_config",
    "text_config",
]  # fmt: skip

MOST_LAYERS = 100_000
DEPTH_KEYS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks")


@dataclass(frozen=True, slots=True)
class Part:
    """What a tensor's name says: its layer in the main stack, its roles, and whether it stands behind the stack.

    `number` counts in the tensor's own stack of `depth` layers: the main one, an encoder, a vision tower.
    """

    layer: int | None
    roles: tuple[str, ...]
    after: bool
    part: str = "language"
    number: int | None = None
    depth: int = 0

    @property
    def height(self) -> float | None:
        """0 at the first layer of the own stack, 1 at its last; None outside stacks."""
        if self.number is None:
            return None
        return self.number / (self.depth - 1) if self.depth > 1 else 1.0


@dataclass(frozen=True)
class Architecture:
    """The parsed names of one checkpoint."""

    family: str | None  # config's model_type
    stack: str | None  # prefix of the main layer stack, such as "model.layers"
    depth: int
    parts: Mapping[str, Part]

    def rename(self, name: str, layer: int) -> str:
        """The same tensor of another layer."""
        assert self.stack is not None
        rest = name[len(self.stack) + 1 :].split(".", 1)
        return f"{self.stack}.{layer}.{rest[1]}"


def config_depth(config: Mapping[str, Any] | None) -> int | None:
    """The number of layers that the config states."""
    section = text_config(config)
    for key in DEPTH_KEYS:
        if isinstance(section.get(key), int):
            return section[key]
    return None


def read_architecture(tensors: Iterable[TensorInfo], config: Mapping[str, Any] | None) -> Architecture:
    """Parse every name once."""
    tensors = list(tensors)
    weight: dict[str, int] = {}
    layers: dict[str, int] = {}
    numbered: dict[str, tuple[str, int]] = {}
    for info in tensors:
        match = _NUMBER.search(info.name)
        if match:
            prefix, number = info.name[: match.start()], int(match[1])
            numbered[info.name] = (prefix, number)
            weight[prefix] = weight.get(prefix, 0) + info.nbytes
            layers[prefix] = max(layers.get(prefix, 0), number + 1)
    stack = _main_stack(weight, layers, config_depth(config))
    parts: dict[str, Part] = {}
    known: dict[tuple[str | None, str, int], Part] = {}  # layers and experts repeat what stands between their numbers
    for info in tensors:
        prefix, number = numbered.get(info.name, (None, 0))
        if prefix is not None and prefix != stack and not _STACK.search(prefix):
            prefix = None  # numbers of something else, such as the steps of a projector
        rest = _NUMBERS.sub("0", info.name if prefix is None else info.name[len(prefix) + 1 :])
        key = (prefix, rest, len(info.shape))
        part = known.get(key)
        if part is None:
            where = part_of(info.name)
            roles, after = roles_of(rest, len(info.shape), stacked=prefix is not None, part=where)
            part = known[key] = Part(None, roles, after, where)
        if prefix is not None:
            part = replace(part, layer=number if prefix == stack else None, number=number, depth=layers[prefix])
        parts[info.name] = part
    family = (config or {}).get("model_type")
    return Architecture(family, stack, layers[stack] if stack else 0, parts)


def _main_stack(weight: Mapping[str, int], layers: Mapping[str, int], depth: int | None) -> str | None:
    if not weight:
        return None
    agreeing = [prefix for prefix in weight if layers[prefix] == depth] or list(weight)
    text = [prefix for prefix in agreeing if part_of(prefix) == "language"] or agreeing
    text = [prefix for prefix in text if not re.search(r"(^|\.)encoder\.(layers|block)$", prefix)] or text
    return max(text, key=lambda prefix: weight[prefix])


# --- depth in configs ---------------------------------------------------------------------------------------------

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
