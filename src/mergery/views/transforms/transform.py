"""A change of a model's coordinates: for each space an order and signs, for each layer its heads. It is stored as a checkpoint.

    residual.order, residual.signs           of the residual stream
    layers.3.mlp.order, layers.3.mlp.signs   of the neurons of an MLP; of an expert's, layers.3.experts.5.mlp
    layers.3.experts.order                   of experts
    layers.3.heads.groups, .queries          of key heads, and of query heads
    layers.3.heads.qk, .vo                   a matrix for each key head: of its keys, and of its values
    rotation                                 of the residual stream, [channels, channels], in place of an order of it
    gains:model.norm.weight                  of a norm, where there is a rotation: those that it has then
    map:layers.3.mlp.plan, .mass             a soft map of a space in place of an order: see `mixing`

Orders are int64: place i gets what stood in place `order[i]`. Matrices are float64, those of a key head that has moved already.
Keys are multiplied with theirs and the queries of their group with its inverse transpose; values with theirs, and what they
are multiplied with behind attention with its inverse. Of an expert, the order is that of the output's expert of that number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mergery.architecture.spaces import RESIDUAL, Attention, Axis, Spaces
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.errors import CheckpointError, Where
from mergery.views.transforms.mixing import Mixing, SoftMap
from mergery.views.transforms.operators import Operator

FILE = "transform.json"
FORMAT = 1
GAINS = "gains:"
MAP = "map:"


@dataclass(frozen=True, eq=False)
class Units:
    """An order of a space's coordinates, int64 [n], and their signs, float32 [n] or None."""

    order: np.ndarray
    signs: np.ndarray | None = None

    def inverse(self) -> Units:
        """What takes it back, exactly."""
        back = np.argsort(self.order)
        return Units(back, None if self.signs is None else self.signs[back])

    def after(self, first: Units) -> Units:
        """This one, done to what another has changed."""
        order = first.order[self.order]
        if self.signs is None and first.signs is None:
            return Units(order)
        before = np.ones(len(order), np.float32) if first.signs is None else first.signs
        return Units(order, before[self.order] * (1.0 if self.signs is None else self.signs))

    @property
    def is_identity(self) -> bool:
        still = np.array_equal(self.order, np.arange(len(self.order)))
        return still and (self.signs is None or bool(np.all(self.signs > 0)))


@dataclass(frozen=True, eq=False)
class Heads:
    """A layer's heads. See above; None is no matrices."""

    groups: np.ndarray
    queries: np.ndarray
    qk: np.ndarray | None = None
    vo: np.ndarray | None = None

    def inverse(self) -> Heads:
        """What takes it back."""
        groups, queries = np.argsort(self.groups), np.argsort(self.queries)
        qk, vo = (None if each is None else np.linalg.inv(each)[groups] for each in (self.qk, self.vo))
        return Heads(groups, queries, qk, vo)

    @property
    def is_identity(self) -> bool:
        orders = (self.groups, self.queries)
        still = all(np.array_equal(order, np.arange(len(order))) for order in orders)
        return still and self.qk is None and self.vo is None


@dataclass(frozen=True, eq=False)
class Transform:
    """A change of coordinates: units by space, heads by layer; what is not named stays. `facts` say where it comes from."""

    units: Mapping[str, Units] = field(default_factory=dict)
    heads: Mapping[int, Heads] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    rotation: np.ndarray | None = None  # float64, orthogonal; norms have no gains meanwhile: see `folding`
    gains: Mapping[str, np.ndarray] = field(default_factory=dict)  # float32, by the tensor of a norm
    maps: Mapping[str, SoftMap] = field(default_factory=dict)  # by space; a model under one computes something else

    def inverse(self) -> Transform:
        """What takes it back: exactly, but for the rounding of matrices. A soft map has no inverse: raises ValueError."""
        if self.maps:
            raise ValueError("a soft map has no inverse")
        units = {name: each.inverse() for name, each in self.units.items()}
        for name in self.units:
            layer, experts, word = name.rpartition(".experts.")
            number = word.removesuffix(".mlp")
            if experts and number.isdecimal() and f"{layer}.experts" in self.units:
                was = int(self.units[f"{layer}.experts"].order[int(number)])
                units[f"{layer}.experts.{was}.mlp"] = self.units[name].inverse()
        heads = {layer: each.inverse() for layer, each in self.heads.items()}
        return Transform(units, heads, {}, None if self.rotation is None else self.rotation.T)

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        still = all(each.is_identity for each in (*self.units.values(), *self.heads.values()))
        return still and self.rotation is None and not self.maps

    def changed(self) -> list[str]:
        """What it changes: names of spaces, and `layers.3.heads`."""
        found = ["residual"] if self.rotation is not None else []
        found += [name for name, each in self.units.items() if not each.is_identity]
        found += self.maps
        return found + [f"layers.{layer}.heads" for layer, each in self.heads.items() if not each.is_identity]

    def expert(self, layer: int | None, expert: str) -> str:
        """The expert that comes to an expert's place."""
        own = self.units.get(f"layers.{layer}.experts")
        return str(int(own.order[int(expert)])) if own is not None and expert.isdecimal() else expert

    def operator(self, axis: Axis | None, spaces: Spaces) -> Operator | Mixing | None:
        """What is done to an axis; None for nothing."""
        if axis is None:
            return None
        if axis.space in self.maps:
            size = spaces.sizes[axis.space].size
            return self.maps[axis.space].operator(size, reads=axis.reads, signed=axis.signed)
        found = self.units.get(axis.space)
        if axis.space == RESIDUAL and self.rotation is not None:
            still = np.arange(len(self.rotation))
            return (
                Operator(still, None, self.rotation[None]) if axis.signed else None
            )  # its own dual; gains are all one
        if found is not None:
            made = None if found.is_identity else Operator(found.order, found.signs)
        else:
            made = self._of_heads(axis.space, spaces.attention)
        if made is None:
            return None
        made = made if axis.signed else made.unsigned()
        made = made.dual() if axis.reads else made
        return made if made.moves or not made.plain else None

    def _of_heads(self, space: str, attention: Mapping[int, Attention]) -> Operator | None:
        _, _, rest = space.partition(".")
        number, _, word = rest.partition(".")
        layer = int(number) if number.isdecimal() else -1
        heads, own = self.heads.get(layer), attention.get(layer)
        if heads is None or own is None or heads.is_identity or word not in ("queries", "keys", "values", "mixed"):
            return None
        of_keys = word in ("keys", "values")
        order = heads.groups if of_keys else heads.queries
        matrices = heads.qk if word in ("keys", "queries") else heads.vo
        if matrices is not None and not of_keys:
            matrices = np.repeat(matrices, own.shared, axis=0)
            if word == "queries":
                matrices = np.linalg.inv(matrices).transpose(0, 2, 1)
        elements = (order[:, None] * own.size + np.arange(own.size)).reshape(-1)
        return Operator(elements, None, matrices)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its tensors by name."""
        found: dict[str, np.ndarray] = {}
        for name, each in self.units.items():
            found[f"{name}.order"] = each.order
            if each.signs is not None:
                found[f"{name}.signs"] = each.signs
        for layer, heads in self.heads.items():
            own = {"groups": heads.groups, "queries": heads.queries, "qk": heads.qk, "vo": heads.vo}
            found |= {f"layers.{layer}.heads.{word}": array for word, array in own.items() if array is not None}
        for name, soft in self.maps.items():
            own = {"plan": soft.plan, "mass": soft.mass}
            found |= {f"{MAP}{name}.{word}": array for word, array in own.items() if array is not None}
        if self.rotation is not None:
            found["rotation"] = self.rotation
            found |= {f"{GAINS}{name}": gains for name, gains in self.gains.items()}
        return found

    def text(self) -> str:
        """The content of `transform.json`."""
        return json.dumps({"format": FORMAT, **self.facts}, indent=1) + "\n"


class MemoryTransform(MemoryCheckpoint):
    """A transform in memory, as a checkpoint."""

    def __init__(self, transform: Transform, label: str = "a transform") -> None:
        super().__init__(transform.arrays(), label)
        self.transform = transform

    @property
    def files(self) -> tuple[str, ...]:
        return (FILE,)

    def file(self, name: str) -> bytes:
        """The content of `transform.json`."""
        return self.transform.text().encode()


_DTYPES: Mapping[str, Any] = {
    **dict.fromkeys(("order", "groups", "queries"), np.int64),
    **dict.fromkeys(("signs", "plan", "mass"), np.float32),
}


def read_transform(checkpoint: Checkpoint) -> Transform:
    """The transform that a checkpoint holds. Raises CheckpointError where it is none."""
    if FILE not in checkpoint.files:
        hint = "name a folder that `mergery align` has kept"
        raise CheckpointError(
            "this is no transform", where=Where(checkpoint.location), why=f"there is no {FILE}", hint=hint
        )
    where = f"{checkpoint.location}/{FILE}"
    facts = parse_object(checkpoint.file(FILE), where)
    if facts.pop("format", None) != FORMAT:
        raise CheckpointError("this transform is of another format", where=Where(where), hint="align again")
    units: dict[str, dict[str, np.ndarray]] = {}
    heads: dict[int, dict[str, np.ndarray]] = {}
    maps: dict[str, dict[str, np.ndarray]] = {}
    whole: dict[str, np.ndarray] = {}
    for name, info in checkpoint.tensors.items():
        owner, _, word = name.rpartition(".")
        values = np.empty(info.shape, np.float32 if name.startswith(GAINS) else _DTYPES.get(word, np.float64))
        if values.nbytes != info.nbytes:
            raise CheckpointError(f"{name!r} is {info.dtype}", where=Where(checkpoint.location), hint="align again")
        checkpoint.read(name, 0, info.elements, values.reshape(-1).view(np.uint8))
        layer = owner.removeprefix("layers.").removesuffix(".heads")
        if name == "rotation" or name.startswith(GAINS):
            whole[name] = values
        elif owner.startswith(MAP):
            maps.setdefault(owner.removeprefix(MAP), {})[word] = values
        elif owner.endswith(".heads") and layer.isdecimal():
            heads.setdefault(int(layer), {})[word] = values
        else:
            units.setdefault(owner, {})[word] = values
    return _checked(checkpoint, lambda: Transform(
        {name: Units(**each) for name, each in units.items()},
        {layer: Heads(**each) for layer, each in heads.items()},
        facts,
        whole.get("rotation"),
        {name.removeprefix(GAINS): gains for name, gains in whole.items() if name.startswith(GAINS)},
        {name: SoftMap(**each) for name, each in maps.items()},
    ))  # fmt: skip


def _checked(checkpoint: Checkpoint, make: Callable[[], Transform]) -> Transform:
    try:
        return make()
    except TypeError as error:
        where = Where(checkpoint.location)
        raise CheckpointError("this transform is damaged", where=where, why=str(error), hint="align again") from None
