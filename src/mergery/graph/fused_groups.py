"""Fused tensors under methods on matrices: taken apart by role, merged one by one, and sewn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergery.architecture.fused import FusedPart, fused_parts, transposed
from mergery.dtypes import F32
from mergery.graph.nodes import Gathered, Matrices, Node, Stored, leaves, read_matrices
from mergery.method import Method
from mergery.recipe.values import Target

SPLIT = "are fused: each of their parts is merged by itself"


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

    def target(self, target: Target) -> Target:
        """Where settings and parts of the recipe are asked for it: at its own roles, and at those of the whole."""
        return target._replace(roles=tuple(dict.fromkeys((*self.parts[0].roles, *target.roles))))

    def name(self, whole: str) -> str:
        """What it is called in a plan, in messages and in the key of its randomness."""
        return f"{whole} [{self.key}]"

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Where its elements lie in the whole: starts and lengths, in its own order."""
        pieces = [part.runs() for part in self.parts]
        return np.concatenate([starts for starts, _ in pieces]), np.concatenate([lengths for _, lengths in pieces])

    def take(self, node: Node, name: str) -> Node:
        """It alone, out of a fused tensor."""
        starts, lengths = self.runs()
        return Gathered(name, self.shape, node.dtype, (node,), np.zeros_like(starts), starts, lengths)


def fused_groups(node: Node, target: Target) -> tuple[FusedGroup, ...]:
    """What a tensor is fused of; nothing where it is one matrix, or a plain stack of them."""
    groups: dict[Any, list[FusedPart]] = {}
    for part in fused_parts(stored_name(node, target), node.shape, target.roles, config_of(node)):
        groups.setdefault((part.roles, part.shape, part.transposed), []).append(part)
    whole = len(groups) == 1 and len(node.shape) == 3
    return () if whole else tuple(FusedGroup(tuple(parts)) for parts in groups.values())


def from_parts(name: str, shape: tuple[int, ...], found: Sequence[FusedGroup], nodes: Sequence[Node]) -> Node:
    """The fused tensor of its merged parts."""
    runs = [group.runs() for group in found]
    which = np.repeat(np.arange(len(found)), [len(starts) for starts, _ in runs])
    inside = np.concatenate([np.cumsum(lengths) - lengths for _, lengths in runs])
    starts, lengths = (np.concatenate(column) for column in zip(*runs, strict=True))
    order = np.argsort(starts)
    dtypes = {node.dtype for node in nodes}
    dtype = dtypes.pop() if len(dtypes) == 1 else F32
    return Gathered(name, shape, dtype, tuple(nodes), which[order], inside[order], lengths[order])


def matrices_of(method: Method, node: Node, target: Target, group: FusedGroup | None) -> Matrices | None:
    """How a tensor, or one part of a fused one, is read as matrices; None for a vector.

    A method that packs sees factors as the tensor is stored: the singular vectors of a matrix and of its transpose are the
    same.
    """
    if group is not None:
        flip = group.parts[0].transposed
    else:
        flip = transposed(stored_name(node, target), node.shape, config_of(node))
    return read_matrices(node.shape, conv="conv" in target.roles, transposed=flip and method.packing is None)


def stored_name(node: Node, target: Target) -> str:
    """The name under which a tensor's own config knows it: in a stack, the output's has another layer."""
    return node.info.name if isinstance(node, Stored) else target.name


def config_of(node: Node) -> Mapping[str, Any] | None:
    found = leaves(node)
    return found[0].checkpoint.config if found else None
