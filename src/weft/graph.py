"""The expressions of a plan: each output tensor is a leaf (a tensor of a checkpoint) or a weave of others.

A stage of a recipe is a `View`: named tensors and the node that makes each. A view costs nothing until a node is
evaluated, chunk by chunk, so a multi-stage recipe needs no intermediate folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weft.architecture import Architecture
from weft.checkpoints.base import Checkpoint, TensorInfo
from weft.dtypes import DType
from weft.method import Method


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A stored tensor."""

    model: str
    checkpoint: Checkpoint
    info: TensorInfo

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    @property
    def dtype(self) -> DType:
        return self.info.dtype

    @property
    def elements(self) -> int:
        return self.info.elements


@dataclass(frozen=True, slots=True, eq=False)
class Weave:
    """A method over nodes of one shape. `models` names them; `settings` are resolved for this tensor."""

    method: Method
    name: str  # the tensor's name in the output: part of the key of its randomness
    models: tuple[str, ...]
    inputs: tuple[Node, ...]
    base: Node | None
    settings: Mapping[str, Any]
    dtype: DType
    merge: int  # which merge of the recipe made it: tensors of one merge share model-wide statistics

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inputs[0].shape

    @property
    def elements(self) -> int:
        return self.inputs[0].elements

    @property
    def rows(self) -> tuple[Node, ...]:
        """The base, where there is one, and then the models."""
        return self.inputs if self.base is None else (self.base, *self.inputs)


Node = Leaf | Weave


def leaves(node: Node) -> list[Leaf]:
    """All stored tensors under a node."""
    if isinstance(node, Leaf):
        return [node]
    return [leaf for row in node.rows for leaf in leaves(row)]


@dataclass(frozen=True)
class View:
    """Named tensors, each made by a node; what a stage of a recipe is to the next."""

    name: str
    nodes: Mapping[str, Node]
    architecture: Architecture
    config: dict[str, Any] | None
    donor: Checkpoint
    dropped: Mapping[str, str] = field(default_factory=dict)  # tensor name -> reason
    warnings: tuple[str, ...] = ()


def collect(nodes: Iterable[Node]) -> dict[int, list[Weave]]:
    """All weaves under some nodes by the merge that made them, inner merges first."""
    found: dict[int, dict[int, Weave]] = {}

    def visit(node: Node) -> None:
        if isinstance(node, Weave):
            for row in node.rows:
                visit(row)
            found.setdefault(node.merge, {})[id(node)] = node

    for node in nodes:
        visit(node)
    return {merge: list(found[merge].values()) for merge in sorted(found)}
