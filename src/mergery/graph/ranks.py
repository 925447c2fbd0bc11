"""Order statistics that methods ask for: which rank of how many is meant at a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mergery.graph.nodes import Merged
from mergery.method import Largest


def ranks_of(
    node: Merged, asks: list[tuple[str, Largest]], n: int | np.ndarray, known: Mapping[str, Any]
) -> np.ndarray:
    """The rank that each ask means for each model: int64 (k, asks). n: of all, or of each."""
    many = np.broadcast_to(n, len(node.models))
    ranks = np.zeros((len(node.models), len(asks)), dtype=np.int64)
    for model in range(len(node.models)):
        settings = {
            name: value[model] if node.method.settings[name].per_model else value
            for name, value in node.settings.items()
        }
        ranks[model] = [ask.rank_among(int(many[model]), {**settings, **known}) for _, ask in asks]
    return ranks


def ranks_of_derived(
    node: Merged, asks: list[tuple[str, Largest]], n: int | np.ndarray, known: Mapping[str, Any], *, each: bool
) -> np.ndarray:
    """The ranks meant in what is derived from the models: of one tensor (1, asks), or of one for each model (k, asks)."""
    if each:
        return ranks_of(node, asks, n, known)
    (many,) = np.atleast_1d(n)
    return np.array([[ask.rank_among(int(many), {**node.settings, **known}) for _, ask in asks]], dtype=np.int64)
