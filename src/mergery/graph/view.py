"""A model as named nodes: what a stage of a recipe is to the next. It costs nothing until a node is made, window by window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mergery.architecture import Architecture
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.config import Config
from mergery.graph.nodes import Node


@dataclass(frozen=True)
class View:
    """Named tensors, each made by a node; what a stage of a recipe is to the next."""

    name: str
    nodes: Mapping[str, Node]
    architecture: Architecture
    config: Config
    donor: Checkpoint
    dropped: Mapping[str, str] = field(default_factory=dict)  # tensor name -> reason


@dataclass(frozen=True)
class Change:
    """What was done to the shape of a model, and what that loses: nothing, where the model computes what it did."""

    model: str
    what: str
    loss: str = ""
