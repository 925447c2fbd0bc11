"""Where a method works, what the rest of a model gets, and what a matrix costs it. Loads neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LINEAR = ("linear",)
"""The matrices of attention, MLPs and experts: not embeddings, head, norms, biases, routers, convolutions or buffers."""

MATRICES = ("linear", "embed", "head", "router", "ssm")
"""Whatever is stored as a matrix, as code that asks only for two dimensions takes it."""

BASE = "base"
"""The word for leaving what a method does not work on as the base has it."""

Rest = str | Mapping[str, Any]
"""What tensors outside a method's scope get: a method's name, `base`, or a mapping of `method` and its settings."""


@dataclass(frozen=True)
class Preset:
    """Settings, scope and rest under one name, such as those of a paper. None keeps the method's own."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    scope: tuple[str, ...] | None = None
    rest: Rest | None = None


@dataclass(frozen=True)
class Route:
    """How a matrix method gets its result, for one matrix: in words, float64 operations, and bytes it works in."""

    words: str
    operations: float
    workspace: int


Routing = Callable[[int, int, int, Mapping[str, Any]], Route]
"""The route of k models' matrices [out, in] with some settings: `routing(k, out, in, settings)`."""
