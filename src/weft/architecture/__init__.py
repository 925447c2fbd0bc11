"""Roles and layers from tensor names and config; there is no file for each architecture.

Knowledge refines a merge (gradients, filters, stacks); its absence never loses a weight: a name that nothing here
understands has the role `other` and no layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from weft.architecture.roles import ROLES, roles_of
from weft.architecture.sections import PARTS, part_of, text_config
from weft.checkpoints.base import TensorInfo

_NUMBER = re.compile(r"\.(\d{1,6})\.")
_STACK = re.compile(r"(^|\.)(layers?|blocks?|h|resblocks|stages|encoders)$")
_NUMBERS = re.compile(r"(?<![^.])\d+(?=\.)")

__all__ = [
    "PARTS", "ROLES", "Architecture", "Part", "config_depth", "part_of", "read_architecture", "text_config",
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
            layer = number if prefix == stack else None
            part = Part(layer, part.roles, part.after, part.part, number, layers[prefix])
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
