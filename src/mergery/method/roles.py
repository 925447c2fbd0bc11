"""The roles of the tensors on which a method works, and what the others get. Loads neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LINEAR = ("linear",)
"""The matrices of attention, MLPs and experts: not embeddings, head, norms, biases, routers, convolutions or buffers."""

MATRICES = ("linear", "embed", "head", "router", "ssm")
"""Whatever is stored as a matrix, as code that asks only for two dimensions takes it."""

BASE = "base"
"""The word for leaving what a method does not work on as the base has it."""

Rest = str | Mapping[str, Any]
"""What tensors on which a method does not work get: a method's name, `base`, or a mapping of `method` and its settings."""


@dataclass(frozen=True)
class Preset:
    """Settings, roles and rest under one name, such as those of a paper. None keeps the method's own."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] | None = None
    rest: Rest | None = None
