"""Roles and layers, from the names of a model's tensors and its config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from mergery.architecture.roles import is_recomputed, roles_of
from mergery.architecture.sections import part_of
from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.config import Config

_NUMBER = re.compile(r"\.(\d{1,6})\.")
_STACK = re.compile(r"(^|\.)(layers?|blocks?|h|resblocks|stages|encoders)$")
_NUMBERS = re.compile(r"\.\d{1,6}(?=\.)")

MOST_LAYERS = 100_000


class ParsedName(NamedTuple):
    """What a tensor's name says: its layer in the main stack, its roles, and whether it stands behind the stack.

    `number` counts in the tensor's own stack: the main one, an encoder, a vision tower. `height` is 0 at that stack's first
    layer and 1 at its last; None outside stacks. Experts of one layer share theirs.
    """

    layer: int | None
    roles: tuple[str, ...]
    after: bool
    part: str = "language"
    number: int | None = None
    height: float | None = None


@dataclass(frozen=True)
class Architecture:
    """The parsed names of one checkpoint."""

    family: str | None  # config's model_type
    stack: str | None  # prefix of the main layer stack, such as "model.layers"
    depth: int
    names: Mapping[str, ParsedName]

    @cached_property
    def buffers(self) -> frozenset[str]:
        """Those of its tensors that are buffers which follow from the config."""
        return frozenset(name for name, parsed in self.names.items() if is_recomputed(name, parsed.roles))

    def rename(self, name: str, layer: int) -> str:
        """The same tensor of another layer."""
        assert self.stack is not None
        rest = name[len(self.stack) + 1 :].split(".", 1)
        return f"{self.stack}.{layer}.{rest[1]}"


def read_architecture(tensors: Iterable[TensorInfo], config: Config) -> Architecture:
    """Parse every name, and only once those that differ in nothing but numbers: layers and experts repeat all else."""
    weight: dict[str, int] = {}
    layers: dict[str, int] = {}
    kinds: dict[tuple[str, tuple[int, ...]], tuple[TensorInfo, str | None]] = {}  # the first of each, and its prefix
    named: list[tuple[str, tuple[TensorInfo, str | None], int]] = []
    for info in tensors:
        name, number = info.name, 0
        key = (_NUMBERS.sub(".0", name), info.shape)
        kind = kinds.get(key)
        if kind is None:
            match = _NUMBER.search(name)
            kind = kinds[key] = (info, name[: match.start()] if match else None)
        first, prefix = kind
        if prefix is not None:
            begin = len(prefix) + 1
            number = int(name[begin : name.index(".", begin)])
            weight[prefix] = weight.get(prefix, 0) + first.nbytes
            if number >= layers.get(prefix, 0):
                layers[prefix] = number + 1
        named.append((name, kind, number))
    stack = _main_stack(weight, layers, config.depth)
    names: dict[str, ParsedName] = {}
    known: dict[tuple[int, int], ParsedName] = {}
    for name, kind, number in named:
        parsed = known.get((id(kind), number))
        if parsed is None:
            parsed = known[id(kind), number] = _read_name(*kind, number, stack, layers)
        names[name] = parsed
    return Architecture(config.family, stack, layers[stack] if stack else 0, names)


def _read_name(
    info: TensorInfo, prefix: str | None, number: int, stack: str | None, layers: Mapping[str, int]
) -> ParsedName:
    """What a name says that differs from that of `info` in nothing but numbers, of which the first is `number`."""
    name, rank, where = info.name, len(info.shape), part_of(info.name)
    if prefix is None or (prefix != stack and not _STACK.search(prefix)):
        # there is no number, or it is that of something else, such as the steps of a projector
        roles, after = roles_of(_unnumbered(name), rank, stacked=False, part=where)
        return ParsedName(None, roles, after, where)
    roles, after = roles_of(_unnumbered(name[len(prefix) + 1 :]), rank, stacked=True, part=where)
    height = number / (layers[prefix] - 1) if layers[prefix] > 1 else 1.0
    return ParsedName(number if prefix == stack else None, roles, after, where, number, height)


def _unnumbered(name: str) -> str:
    """The name with zeros for its numbers."""
    return _NUMBERS.sub(".0", f".{name}")[1:]


def _main_stack(weight: Mapping[str, int], layers: Mapping[str, int], depth: int | None) -> str | None:
    if not weight:
        return None
    agreeing = [prefix for prefix in weight if layers[prefix] == depth] or list(weight)
    text = [prefix for prefix in agreeing if part_of(prefix) == "language"] or agreeing
    text = [prefix for prefix in text if not re.search(r"(^|\.)encoder\.(layers|block)$", prefix)] or text
    return max(text, key=lambda prefix: weight[prefix])
