"""What the matrices of a unit are multiplied with in one call of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mergery.calibration.model import Unit
from mergery.calibration.products import Products


class Place(NamedTuple):
    """A matrix of a model: a parameter, or a part of one, such as one expert of a stack."""

    name: str  # of the parameter in the model
    start: int  # of the matrix's first element in it
    shape: tuple[int, int]  # as it is stored
    turned: bool  # whether that is [in, out]

    @property
    def into(self) -> int:
        """How many inputs it has."""
        return self.shape[0] if self.turned else self.shape[1]

    def of(self, weights: Any) -> Any:
        """The matrix [out, in] in the weights of its parameter: a view."""
        matrix = weights.reshape(-1)[self.start : self.start + math.prod(self.shape)].view(self.shape)
        return matrix.T if self.turned else matrix


@dataclass
class Seen:
    """Inputs (tokens, in) by matrix; what several matrices share is there once, under the first of them."""

    rows: dict[Place, list[Any]] = field(default_factory=dict)
    leads: dict[Place, Place] = field(default_factory=dict)  # whose inputs a matrix's own are
    scaled: dict[str, list[Any]] = field(default_factory=dict)  # what norms make of rows before their weights, by these
    offsets: dict[str, float] = field(
        default_factory=dict
    )  # what a norm adds to its weight: 1 where it scales by 1 + w
    _known: dict[Any, Place] = field(default_factory=dict)
    _held: list[Any] = field(default_factory=list)  # so that no other tensor gets the address of one

    def of(self, place: Place) -> Any:
        """The inputs of a matrix; None where it has none."""
        import torch

        rows = self.rows.get(self.leads.get(place, place))
        return None if rows is None else rows[0] if len(rows) == 1 else torch.cat(rows)

    def add(self, place: Place, rows: Any) -> None:
        """Take the inputs of one product."""
        key = (rows.data_ptr(), rows.shape, rows.stride(), rows._version)
        self._held.append(rows)
        lead = self.leads.setdefault(place, self._known.setdefault(key, place))
        if lead == place:
            self.rows.setdefault(place, []).append(rows.detach().reshape(-1, rows.shape[-1]))


def run_seeing(
    unit: Unit, args: Any, kwargs: Any, weights: Mapping[str, Any], wanted: Callable[[Place], bool]
) -> tuple[Any, Seen]:
    """What a unit gives for its arguments, and what the wanted ones of its matrices, and its norms, multiply meanwhile.

    weights: the unit's, by the names of parameters, as they stand in its module.
    """
    seen = Seen()
    with ExitStack() as stack:
        for name, norm in norms_of(unit).items():
            if norm is not unit.module:
                stack.callback(norm.register_forward_pre_hook(_look(seen, name)).remove)
            elif len(args) == 1:
                _scale(seen, name, norm, args[0])
        stack.enter_context(_Looking(weights, seen, wanted))
        return unit.forward(*args, **kwargs), seen


class _Looking(Products):
    """Keeps the inputs of the wanted matrices."""

    def __init__(self, weights: Mapping[str, Any], seen: Seen, wanted: Callable[[Place], bool]) -> None:
        super().__init__(weights)
        self.seen, self.wanted = seen, wanted

    def found(self, name: str, rows: Any, matrix: Any, turned: bool) -> None:
        """See `Products.found`."""
        if matrix.dim() != 2:
            return
        stored = matrix.T if matrix.stride(0) == 1 and matrix.stride(1) != 1 else matrix
        if not stored.is_contiguous():
            return  # columns of a parameter, which are no matrix of it
        place = Place(name, matrix.storage_offset(), (stored.shape[0], stored.shape[1]), turned)
        if self.wanted(place):
            self.seen.add(place, rows)


def norms_of(unit: Unit) -> dict[str, Any]:
    """The modules of a unit that normalise each token and then scale it, by the names of their weights."""
    found: dict[str, Any] = {}
    for holder, own, name in unit.parameters:
        kind = type(holder).__name__.lower()
        if own == "weight" and holder._parameters[own].dim() == 1 and ("layernorm" in kind or "rmsnorm" in kind):
            found[name] = holder
    return found


def _look(seen: Seen, name: str) -> Any:
    def look(norm: Any, args: Any) -> None:
        if len(args) == 1:  # others have gates
            _scale(seen, name, norm, args[0])

    return look


def _scale(seen: Seen, name: str, norm: Any, rows: Any) -> None:
    """Keep what a norm makes of rows before its weight, (tokens, width), and what it adds to that: it is linear in it."""
    import torch

    kept = dict(norm._parameters)
    ends = []
    try:
        for fill in (torch.ones_like, torch.zeros_like):
            for own, value in kept.items():
                if value is not None:
                    norm._parameters[own] = torch.nn.Parameter((fill if own == "weight" else torch.zeros_like)(value))
            ends.append(type(norm).forward(norm, rows).detach())
    finally:
        norm._parameters.update(kept)
    scaled = ends[0] - ends[1]
    seen.offsets[name] = round(float((ends[1] * scaled).sum() / scaled.square().sum().clamp(min=1e-30)), 3)
    seen.scaled.setdefault(name, []).append(scaled.reshape(-1, rows.shape[-1]))
