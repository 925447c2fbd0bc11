"""What an adapter's factors are made of: which nodes are products on one base, and how much of them the factors hold."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mergery.graph.equality import is_zero, same_base
from mergery.graph.nodes import Computed, LowRank, Merged, Node

SPACES = ("core", "shared", "full")
"""Where adapters are merged: in all that they span, in the best bases of the output's rank, or multiplied out."""


@dataclass
class Energies:
    """How much of each adapter's squared length the factors hold: sums over tensors, filled while they are made."""

    whole: dict[str, dict[str, float]] = field(default_factory=dict)  # by tensor and model
    held: dict[str, dict[str, float]] = field(default_factory=dict)

    def note(self, tensor: str, model: str, whole: float, held: float) -> None:
        self.whole.setdefault(tensor, {})[model] = whole
        self.held.setdefault(tensor, {})[model] = held

    def shares(self) -> dict[str, float]:
        """By model, the share of its squared length that is held, over all tensors."""
        models = dict.fromkeys(model for found in self.whole.values() for model in found)
        sums = {
            m: [sum(each.get(m, 0.0) for each in part.values()) for part in (self.held, self.whole)] for m in models
        }
        return {model: held / whole if whole else 1.0 for model, (held, whole) in sums.items()}


class Once:
    """A value that is made once, whoever asks first, and dropped when it was asked for as often as it is needed."""

    def __init__(self, uses: int) -> None:
        self._uses, self._lock, self._value, self._asked = uses, threading.Lock(), None, 0

    def get(self, make: Callable[[], Any]) -> Any:
        with self._lock:
            value = make() if self._value is None else self._value
            self._asked += 1
            self._value = value if self._asked % self._uses else None
            return value


class Recent:
    """Values that were made lately, each once at a time, whoever asks: a worker asks for one several times in a row."""

    def __init__(self, most: int = 8) -> None:
        self._most, self._lock = most, threading.Lock()
        self._entries: dict[str, tuple[threading.Lock, list[Any]]] = {}

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """The value of a key, made where it is not there."""
        with self._lock:
            entry = self._entries[key] = self._entries.pop(key, None) or (threading.Lock(), [])
            if len(self._entries) > self._most:
                self._entries.pop(next(iter(self._entries)))
        with entry[0]:
            if not entry[1]:
                entry[1].append(make())
            return entry[1][0]

    def drop(self, key: str) -> None:
        """Hold the value of a key no longer."""
        with self._lock:
            self._entries.pop(key, None)


@dataclass(frozen=True)
class Wanted:
    """What factors are wanted: their rank (None: as many as nothing is lost with), where to merge, and Pico's calibration."""

    rank: int | None = None
    space: str | None = None
    pico: bool = False
    recent: Recent = field(default_factory=Recent, compare=False)


def unchanged(node: Node, base: Node) -> bool:
    """Whether a node is its base: the same tensor, or a merge in which nothing stands between the models and the base."""
    if not isinstance(node, Merged):
        return same_base(node, base)
    return all(same_base(row, base) for row in node.rows) and (node.method.takes == "gram" or on_deltas(node, base))


def low_rank_of(node: Node, base: Node) -> tuple[LowRank, ...] | None:
    """The products that a node adds to a base; None where it is more than that, such as DoRA."""
    if same_base(node, base):
        return ()
    if isinstance(node, Computed) and node.base is not None and same_base(node.base, base):
        return node.low_rank
    return None


def base_of(node: Node) -> Node | None:
    """The base on which a node's factors stand; None where it has none."""
    if isinstance(node, Computed):
        return node.base
    if isinstance(node, Merged):
        found = next((found for row in node.rows if (found := base_of(row)) is not None), node.base)
        alike = all(same_base(row, node.inputs[0]) for row in node.inputs)
        return found if found is not None or not alike else node.inputs[0]
    return None


def on_deltas(node: Node, base: Node) -> bool:
    """Whether a merge is of differences from the base, so that it can be made of them alone."""
    if not isinstance(node, Merged) or is_zero(base):
        return True
    if node.base is not None:
        return same_base(node.base, base) and node.method.span != "models"
    method = node.method
    if method.gives != "coefficients" or method.takes == "gram" or method.asks:
        return False
    return abs(float(np.sum(method.function(len(node.inputs), **node.settings))) - 1.0) < 1e-6
