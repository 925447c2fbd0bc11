"""Fused tensors taken apart and put together: what they are made of stands in `architecture.fused`.

A method on matrices, and whatever a recipe says of a role inside, gets each part by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergery.architecture.fused import FusedPart, fused_parts
from mergery.checkpoints.config import Config
from mergery.graph.gathering import dtype_of
from mergery.graph.nodes import Gathered, Node


@dataclass(frozen=True)
class FusedGroup:
    """Parts of one role and shape inside a fused tensor; several are one stack, such as the gates of all experts."""

    parts: tuple[FusedPart, ...]

    @property
    def key(self) -> str:
        """What tells it from the others: `q`, `expert 3 gate`, or `gate` for those of all experts."""
        key = self.parts[0].key
        if len(self.parts) == 1:
            return key
        return "experts" if key.split()[-1].isdecimal() else key.split()[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        own = self.parts[0].shape
        return own if len(self.parts) == 1 else (len(self.parts), *own)

    @property
    def roles(self) -> tuple[str, ...]:
        return self.parts[0].roles

    def name(self, whole: str) -> str:
        """What it is called in a plan, in messages and in the key of its randomness."""
        return f"{whole} [{self.key}]"

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Where its elements lie in the flattened whole, in its own order: starts and lengths, int64."""
        pieces = [part.runs() for part in self.parts]
        return np.concatenate([starts for starts, _ in pieces]), np.concatenate([lengths for _, lengths in pieces])


def fused_groups(
    name: str, shape: tuple[int, ...], roles: tuple[str, ...], config: Config
) -> tuple[FusedGroup, ...] | None:
    """What a tensor is fused of; empty where it is one matrix, or a plain stack of them; None where it is not known."""
    parts = fused_parts(name, shape, roles, config)
    if parts is None:
        return None
    groups: dict[Any, list[FusedPart]] = {}
    for part in parts:
        groups.setdefault((part.roles, part.shape, part.transposed), []).append(part)
    whole = len(groups) == 1 and len(shape) == 3
    return () if whole else tuple(FusedGroup(tuple(parts)) for parts in groups.values())


def take_part(name: str, node: Node, part: FusedPart | FusedGroup) -> Node:
    """One part of a fused tensor, as a tensor of its own."""
    starts, lengths = part.runs()
    if len(starts) == 1 and node.shape == part.shape:
        return node
    return Gathered(name, part.shape, node.dtype, (node,), np.zeros_like(starts), starts, lengths)


def from_parts(
    name: str, shape: tuple[int, ...], parts: Sequence[FusedPart | FusedGroup], nodes: Sequence[Node]
) -> Node:
    """The fused tensor of all its parts: a node for each, in the same order."""
    runs = [part.runs() for part in parts]
    which = np.repeat(np.arange(len(parts)), [len(starts) for starts, _ in runs])
    inside = np.concatenate([np.cumsum(lengths) - lengths for _, lengths in runs])
    starts, lengths = (np.concatenate(column) for column in zip(*runs, strict=True))
    order = np.argsort(starts)
    return Gathered(name, shape, dtype_of(nodes), tuple(nodes), which[order], inside[order], lengths[order])
