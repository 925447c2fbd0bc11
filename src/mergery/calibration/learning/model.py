"""One merged model in memory, whole: it is made of files, and its gradient says where the weights should go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mergery.calibration.learning.additions import Additions
from mergery.calibration.learning.weights import Weights
from mergery.calibration.model import StreamedModel
from mergery.engine import Shared
from mergery.errors import CheckpointError


class Place(NamedTuple):
    """Where a parameter stands: the module that holds it, its name there, its name in the model."""

    holder: Any
    own: str
    name: str


@dataclass(frozen=True)
class Held:
    """A parameter, all places where it stands, and the tensors of which it is made."""

    parameter: Any
    places: tuple[Place, ...]
    pieces: tuple[tuple[str, int, int, int], ...]  # tensor, first element there, first in the parameter, length


@dataclass(frozen=True)
class WholeModel:
    """A module whose parameters are all there."""

    module: Any
    held: Sequence[Held]

    @property
    def nbytes(self) -> int:
        return sum(each.parameter.numel() * each.parameter.element_size() for each in self.held)

    def learnable(self, additions: Additions, apart: frozenset[str] = frozenset()) -> frozenset[str]:
        """The tensors that count: some model adds to them, a parameter is made of them, and they are not `apart`.

        Parameters made of them have gradients from now on, and no others.
        """
        found: set[str] = set()
        for each in self.held:
            own = {piece[0] for piece in each.pieces} & additions.moved - apart
            each.parameter.requires_grad_(bool(own))
            found |= own
        return frozenset(found)

    def write(self, additions: Additions, weights: Weights) -> None:
        """Make the merge with these weights."""
        none = np.zeros(len(additions.rows) - 1)
        for each in self.held:
            flat = each.parameter.detach().reshape(-1).numpy()
            for tensor, start, at, length in each.pieces:
                own = weights.of(tensor) if tensor in weights.group else none
                additions.merged(tensor, own, start, flat[at : at + length])

    def slopes(self, additions: Additions, tensors: frozenset[str]) -> dict[str, np.ndarray]:
        """The gradient with respect to the weights (k,) of tensors; that of the parameters is then forgotten."""
        found: dict[str, np.ndarray] = {}
        for each in self.held:
            if each.parameter.grad is None:
                continue
            flat = each.parameter.grad.reshape(-1).numpy()
            for tensor, start, at, length in each.pieces:
                if tensor in tensors:
                    product = additions.products(tensor, start, flat[at : at + length])
                    found[tensor] = found[tensor] + product if tensor in found else product
            each.parameter.grad = None
        return found

    @contextmanager
    def with_parameters(self, given: Mapping[str, Any]) -> Iterator[None]:
        """The module with other parameters in some places, for as long as the context lasts."""
        places = [place for each in self.held for place in each.places if place.name in given]
        before = [place.holder._parameters[place.own] for place in places]
        try:
            for place in places:
                place.holder._parameters[place.own] = given[place.name]
            yield
        finally:
            for place, value in zip(places, before, strict=True):
                place.holder._parameters[place.own] = value


def whole(model: StreamedModel, dtype: Any = None) -> WholeModel:
    """A streamed model with room for all of its parameters, in one type; they are not read."""
    import torch

    model.prepare(Shared())
    groups: dict[int, list[Place]] = {}
    for unit in model.units:
        for holder, own, name in unit.parameters:
            groups.setdefault(id(model.nodes[name]), []).append(Place(holder, own, name))
    held: list[Held] = []
    for places in groups.values():
        name = places[0].name
        empty = torch.empty(model.nodes[name].shape, dtype=dtype or torch.float32)
        parameter = torch.nn.Parameter(empty, requires_grad=False)
        for place in places:
            place.holder._parameters[place.own] = parameter
        held.append(Held(parameter, tuple(places), tuple(model.stored(name))))
    return WholeModel(model.module, held)


def load(into: WholeModel, other: StreamedModel) -> None:
    """Take all weights of another model of this architecture. Raises CheckpointError where they have other shapes."""
    for each in into.held:
        name, own = each.places[0].name, tuple(each.parameter.shape)
        if name not in other.nodes or tuple(other.nodes[name].shape) != own:
            what = f"{other.view.name!r} has no {name!r} of shape {list(own)}, as the merge has"
            raise CheckpointError(what, hint="--objective labels, which asks no other model")
        each.parameter.data.copy_(other.read(name))


def heads(model: StreamedModel) -> dict[str, str]:
    """The parameters that give nothing but the model's answer, and the tensors of which they are made."""
    names = [name for unit in model.units for _, _, name in unit.parameters]
    first = {name: model.stored(name)[0][0] for name in names}
    return {name: tensor for name, tensor in first.items() if model.roles(tensor)[0] == "head"}
