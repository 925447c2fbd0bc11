"""How a matrix method gets its result, and what a matrix costs it. Loads neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Route:
    """How a matrix method gets its result, for one matrix: in words, float64 operations, and bytes it works in."""

    words: str
    operations: float
    workspace: int


Routing = Callable[[int, int, int, Mapping[str, Any]], Route]
"""The route of k models' matrices [out, in] with some settings: `routing(k, out, in, settings)`."""
