"""What each tensor of a merge gets: the first override that fits it, else the method if it works on the tensor's role, else the
rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from mergery.errors import listed
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node
from mergery.method import Method, find
from mergery.method.roles import BASE, Preset
from mergery.method.setting import WEIGHT
from mergery.planning.measurements import Measurements
from mergery.planning.settings import check_model_wide
from mergery.recipe import Merge, Override
from mergery.recipe.overrides import as_mapping, roles_of
from mergery.recipe.values import Condition, Constant, Target, Value, looks_at

_NEVER = ("norm", "attention.norm", "bias", "buffer")  # roles of what is no matrix of weights, however it is stored


@dataclass(frozen=True)
class Treatment:
    """A method with its settings, as a merge of its own, under a number of its own; or the model to take the tensor of."""

    merge: Merge
    number: int
    method: Method | None = None
    take: str | None = None


class Levels(NamedTuple):
    """Where the settings of a treatment are looked up, nearest first."""

    settings: tuple[Mapping[str, Value], ...]
    key: tuple[int, ...]  # tells them from others
    looks: set[str]  # what of a tensor decides their values: see `looks_at`


@dataclass
class Treatments:
    """All treatments of one merge."""

    own: Treatment
    roles: tuple[str, ...] | None
    preset: Mapping[str, Value]
    overrides: tuple[tuple[Condition, Treatment], ...]
    rest: Treatment
    measurements: Measurements
    weights: dict[int, tuple[Mapping[str, Value], Mapping[str, Value]]] = field(default_factory=dict)
    resolved: dict[Any, dict[str, Any]] = field(default_factory=dict)  # settings, by all that values are asked for
    vectors: dict[int, list[str]] = field(default_factory=dict)  # for methods on matrices, by the treatment's number
    fitted: set[int] = field(default_factory=set)  # numbers of the overrides that some tensor has got

    @cached_property
    def by_role(self) -> bool:
        """Whether an override asks for a role."""
        return any(condition.roles for condition, _ in self.overrides)

    def at(self, target: Target, shape: tuple[int, ...]) -> Treatment:
        for condition, treatment in self.overrides:
            if condition.holds(target):
                self.fitted.add(treatment.number)
                return treatment
        return self.own if self.covers(target, shape) else self.rest

    def covers(self, target: Target, shape: tuple[int, ...]) -> bool:
        """Whether the merge's own method works on a tensor."""
        if self.roles is None:
            return True
        return len(shape) > 1 and not set(target.roles) & set(_NEVER) and Condition(roles=self.roles).holds(target)

    def levels(self, treatment: Treatment, nearer: tuple[Mapping[str, Value], ...]) -> Levels:
        """A treatment's own settings and, of the merge's, how much each model weighs. `nearer` are those of a slice."""
        levels = (*nearer, self.own.merge.settings)
        if treatment is self.own:
            levels = (*levels, self.preset)
        else:
            levels = (treatment.merge.settings, *map(self._weight, levels))
        looks = set().union(*(looks_at(value) for level in levels for value in level.values()))
        return Levels(levels, tuple(map(id, levels)), looks)

    def _weight(self, level: Mapping[str, Value]) -> Mapping[str, Value]:
        """Only the weight of a level, the same object each time."""
        if id(level) not in self.weights:
            self.weights[id(level)] = (level, {WEIGHT: level[WEIGHT]} if WEIGHT in level else {})
        return self.weights[id(level)][1]

    def check(self, nodes: Mapping[str, Node], findings: Findings) -> None:
        """Check what methods ask of the whole model that was made, and that each override has found a tensor."""
        for at, (condition, override) in enumerate(self.overrides, start=1):
            if override.number not in self.fitted:
                words = ", ".join(f"{key}: {value}" for key, value in condition.plain().items())
                findings.warnings.append(
                    f"part {at} ({words}) gets no tensor: none fits, or all that do fit an earlier part"
                )
        for each in (self.own, *(each for _, each in self.overrides), self.rest):
            if each.method is None:
                continue
            if each.number in self.vectors:
                what = f"{each.method.name} cannot merge {listed(self.vectors[each.number])}"
                why, hint = "it works on matrices, and these are vectors", "method: linear"
                findings.fail(what, where=each.merge.place, why=why, hint=hint)
            check_model_wide(each.method, each.merge, nodes, each.number, findings.problems)


def treatments_of(merge: Merge, number: int, measurements: Measurements) -> Treatments:
    """The treatments of a merge. Its number is `number`; those behind it are its overrides' and the rest's."""
    method = find(merge.method)
    chosen = method.presets.get(merge.preset or "", Preset())
    rest = merge.rest or _declared(chosen.rest if chosen.rest is not None else method.rest, merge)
    return Treatments(
        Treatment(merge, number, method),
        roles_of(method, merge.preset),
        {name: Constant(value) for name, value in chosen.settings.items()},
        tuple((each.where, _treatment(each, merge, number + 1 + at)) for at, each in enumerate(merge.overrides)),
        _treatment(rest, merge, number + 1 + len(merge.overrides)),
        measurements,
    )


def numbers(merge: Merge) -> int:
    """How many numbers a merge takes: its own, one for each override, and the rest's."""
    return 2 + len(merge.overrides)


def _declared(rest: Any, merge: Merge) -> Override:
    """What a method or a preset declares for the rest."""
    data = dict(as_mapping(rest))
    if "take" in data:
        return Override(take=BASE, place=merge.place)
    name = data.pop("method")
    return Override(method=name, settings={key: Constant(value) for key, value in data.items()}, place=merge.place)


def _treatment(override: Override, merge: Merge, number: int) -> Treatment:
    inner = replace(
        merge,
        method=override.method or merge.method,
        settings=override.settings,
        place=override.place,
        places=override.places,
        preset=None,
        overrides=(),
        rest=None,
    )
    return Treatment(inner, number, find(override.method) if override.method else None, override.take)
