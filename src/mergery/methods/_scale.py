"""The outer scale of methods whose result has the size of a sum of task vectors."""

from __future__ import annotations

import math


def outer(scale: float | None, k: int) -> float:
    """The scale, or 1 / sqrt(k) without one: between a sum, right for tasks that share nothing, and a mean."""
    return 1.0 / math.sqrt(k) if scale is None else scale
