"""What each weight of a model is multiplied with: Gram matrices, magnitudes and squares, gathered while the model runs.

    gram        X^T X, summed over all tokens             (in, in) for a weight [out, in]; (experts, in, in) for a stack
    activation  |X|, summed over all tokens               (in,), or (experts, in)
    square      X^2, summed over all tokens               (in,), or (experts, in): the diagonal of the first

An input is seen where torch multiplies it with a weight, whatever module that stands in. What several weights share, such as
the input of query, key and value, is summed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mergery.architecture.fused import transposed
from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.products import Products
from mergery.errors import DataError

OF_HEADS = frozenset({"activation", "square"})
"""Statistics that are also gathered of the inputs of heads."""
TOGETHER = 1024  # rows of a Gram matrix
Place = tuple[str, int | None]  # one of the view's tensors; which matrix of a stack


@dataclass
class Sums:
    """What has been summed of the inputs of one weight."""

    tokens: int = 0
    gram: Any = None  # float64 (in, in)
    activation: Any = None  # float64 (in,)
    square: Any = None  # float64 (in,)


@dataclass
class Inputs:
    """Gathers the inputs of a model's linear weights, unit by unit."""

    model: StreamedModel
    stats: frozenset[str]  # gram, activation, square
    sums: dict[Place, Sums] = field(default_factory=dict)  # of the unit at hand
    leads: dict[Place, Place] = field(default_factory=dict)  # whose sums are a weight's own
    places: Any = None  # of the batch at hand: which of its tokens count, bool; None where all do

    def watching(self, weights: Mapping[str, Any]) -> Watch:
        """A context in which what a unit's weights are multiplied with is gathered."""
        return Watch(self, weights)

    def wanted(self, name: str) -> list[str]:
        """What is gathered of the inputs of one of the view's tensors: of heads, no Gram matrices."""
        roles = self.model.roles(name)
        head = roles[0] == "head"
        return [stat for stat in sorted(self.stats) if "linear" in roles or (head and stat in OF_HEADS)]

    def add(self, rows: Any, places: list[Place], seen: dict[Any, Place]) -> None:
        """Rows (any, in) that the matrices at some places are multiplied with."""
        key = (rows.data_ptr(), rows.shape, rows.stride(), rows._version)
        first = seen.setdefault(key, places[0])
        for place in places:
            if self.leads.setdefault(place, first) != first:
                raise AssertionError(f"{place} shares its input with {self.leads[place]}, and once with {first}")
        if first == places[0]:
            sums = self.sums.setdefault(first, Sums())
            flat = rows.reshape(-1, rows.shape[-1])
            flat = flat if self.places is None else flat[self.places.reshape(-1)]
            sums.tokens += len(flat)
            if "gram" in self.wanted(first[0]):
                sums.gram = with_products(sums.gram, flat)
            if "activation" in self.stats:
                product = flat.abs().double().sum(0)
                sums.activation = product if sums.activation is None else sums.activation.add_(product)
            if "square" in self.stats:
                product = flat.double().square_().sum(0)
                sums.square = product if sums.square is None else sums.square.add_(product)

    def finish(self, unit: Unit) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, list[int]]]]:
        """The unit's statistics by name, float32; and for each of its weights, whose they are and of how many tokens.

        Experts that no token reached have zeros.
        """
        arrays: dict[str, np.ndarray] = {}
        table: dict[str, tuple[str, list[int]]] = {}
        owners: dict[str, str] = {}
        for name, (first, _) in ((place[0], lead) for place, lead in self.leads.items()):
            owners.setdefault(name, first)
        for name in self._idle(unit, owners):
            owners[name] = name
        for name, owner in owners.items():
            shape = self.model.view.nodes[owner].shape
            count = shape[0] if len(shape) == 3 else None
            each = [self.sums.get((owner, index)) for index in (range(count) if count else (None,))]
            table[name] = owner, [0 if sums is None else sums.tokens for sums in each]
            if name != owner:
                continue
            size = shape[-2] if transposed(name, shape, self.model.view.config) else shape[-1]
            for stat in self.wanted(name):
                one = (size, size) if stat == "gram" else (size,)
                whole = np.zeros((count or 1, *one), np.float32)
                for values, sums in zip(whole, each, strict=True):
                    if sums is not None:
                        values[...] = getattr(sums, stat).numpy()
                        setattr(sums, stat, None)  # wide, and not needed any more
                if not np.isfinite(whole).all():
                    raise DataError(
                        f"the inputs of {name!r} hold NaN or infinity", hint="the model overflows on this data"
                    )
                arrays[f"{name}.{stat}"] = whole if count else whole[0]
        self.sums.clear()
        self.leads.clear()
        return arrays, table

    def _idle(self, unit: Unit, owners: Mapping[str, str]) -> Iterator[str]:
        """Experts' matrices that no token reached."""
        names = {piece[0] for _, _, name in unit.parameters for piece in self.model.stored(name)}
        for name in sorted(names - owners.keys()):
            if "expert" in self.model.roles(name) and self.wanted(name):
                yield name


def with_products(gram: Any, rows: Any) -> Any:
    """A Gram matrix, float64, with the products of further rows (any, in) added: float32, some rows of it at a time."""
    import torch

    size = rows.shape[-1]
    if gram is None:
        gram = torch.zeros(size, size, dtype=torch.float64)
    for start in range(0, size, TOGETHER):
        gram[start : start + TOGETHER] += rows[:, start : start + TOGETHER].T @ rows
    return gram


class Watch(Products):
    """Sees every product of torch with a unit's weights, and gathers its inputs."""

    def __init__(self, inputs: Inputs, weights: Mapping[str, Any]) -> None:
        super().__init__(weights)
        self.inputs = inputs
        self.seen: dict[Any, Place] = {}
        self.held: list[Any] = []  # inputs of the call at hand: as long as they are there, no other has their address

    def next_call(self) -> None:
        """The unit is called with another batch."""
        self.seen.clear()
        self.held.clear()

    def found(self, name: str, rows: Any, matrix: Any, turned: bool) -> None:
        """See `Products.found`."""
        inputs, start = self.inputs, matrix.storage_offset()
        places: list[Place] = []
        for piece in inputs.model.stored(name, start, start + math.prod(matrix.shape)):
            tensor, first = piece[0], piece[1]
            shape = inputs.model.view.nodes[tensor].shape
            place = tensor, first // math.prod(shape[1:]) if len(shape) == 3 else None
            if inputs.wanted(tensor) and place not in places:
                places.append(place)
        if places:
            self.held.append(rows)
            inputs.add(rows.detach(), places, self.seen)
