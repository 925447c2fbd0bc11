"""Settings as the user writes them: a scalar, a gradient over depth, filtered values, or one for each model.

A value is asked at a `Target`: a tensor of the output, with its parsed layer and role. It answers with a scalar, or with
`UNSET` where none of its filters match; then the next level is asked (a slice, the merge, the method's default).
"""

from __future__ import annotations

import fnmatch
import re
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from mergery.architecture.roles import ROLES
from mergery.architecture.sections import PARTS
from mergery.errors import RecipeError, did_you_mean

Scalar = float | int | bool | str | None
OPEN = ("search", "choose")
"""Keys of values that are still to be found (`mergery.recipe.space`)."""


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET = _Unset()


class Target(NamedTuple):
    """A tensor for which a setting is resolved."""

    name: str  # the tensor's name in the output
    layer: int | None = None  # the output layer, None outside the stack
    roles: tuple[str, ...] = ("other",)
    depth: float | None = None  # 0 at the first layer of the (slice's) stack, 1 at its last; None outside
    after: bool = False  # outside the stack: behind it (final norm, head) rather than before it
    model_names: tuple[tuple[str, str], ...] = ()  # the tensor's name in each model, where it differs
    part: str = "language"  # of a multimodal model
    number: int | None = None  # the layer in the tensor's own stack: the main one, an encoder, a vision tower


@dataclass(frozen=True)
class Constant:
    """One value for all tensors."""

    value: Scalar

    def at(self, target: Target, model: str | None = None) -> Any:
        return self.value

    def scalars(self) -> Iterator[Scalar]:
        yield self.value

    def plain(self) -> Any:
        return self.value


@dataclass(frozen=True)
class Gradient:
    """Values interpolated over depth: the first at the first layer, the last at the last; words and booleans hold to the next.

    Outside the stack the embeddings take the first value and the final norm and head the last; `outside: first` gives
    all of them the first, as mergekit does.
    """

    points: tuple[Scalar, ...]
    outside: Literal["ends", "first"] = "ends"
    named: bool = field(default=False, compare=False)  # written {gradient: [...]}, which can mean nothing else

    def at(self, target: Target, model: str | None = None) -> Any:
        depth = target.depth
        if depth is None:
            depth = 1.0 if target.after and self.outside == "ends" else 0.0
        place = depth * (len(self.points) - 1)
        low = min(int(place), len(self.points) - 1)
        high = min(low + 1, len(self.points) - 1)
        share = place - low
        a, b = self.points[low], self.points[high]
        if isinstance(a, (bool, str)) or isinstance(b, (bool, str)) or a is None or b is None:
            return a
        return (1.0 - share) * a + share * b

    def scalars(self) -> Iterator[Scalar]:
        yield from self.points

    def plain(self) -> Any:
        if self.outside == "ends":
            return {"gradient": list(self.points)} if self.named else list(self.points)
        return {"gradient": list(self.points), "outside": self.outside}


@dataclass(frozen=True)
class Condition:
    """A filter on the parsed name: layers (inclusive ranges), roles, parts, or a glob over the whole tensor name.

    Layers are the language model's, of its decoder and encoder; of another part where `parts` name it.
    """

    layers: tuple[tuple[int, int], ...] = ()
    roles: tuple[str, ...] = ()
    name: str | None = None
    parts: tuple[str, ...] = ()

    def holds(self, target: Target, model: str | None = None) -> bool:
        layer = target.layer
        if layer is None and (self.parts or target.part == "language"):
            layer = target.number
        if self.layers and (layer is None or not any(low <= layer <= high for low, high in self.layers)):
            return False
        if self.parts and target.part not in self.parts:
            return False
        if self.roles and not any(
            own == role or own.startswith(role + ".") for own in target.roles for role in self.roles
        ):
            return False
        if self.name is not None:
            name = target.name if model is None else dict(target.model_names).get(model, target.name)
            return fnmatch.fnmatchcase(name, self.name)
        return True

    def plain(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        if self.layers:
            ranges = [str(low) if low == high else f"{low}-{high}" for low, high in self.layers]
            result["layers"] = ranges[0] if len(ranges) == 1 else ranges
        if self.roles:
            result["role"] = self.roles[0] if len(self.roles) == 1 else list(self.roles)
        if self.parts:
            result["part"] = self.parts[0] if len(self.parts) == 1 else list(self.parts)
        if self.name is not None:
            result["name"] = self.name
        return result


@dataclass(frozen=True)
class Filtered:
    """The value of the first condition that holds; UNSET where none does."""

    cases: tuple[tuple[Condition, Constant | Gradient], ...]

    def at(self, target: Target, model: str | None = None) -> Any:
        for condition, value in self.cases:
            if condition.holds(target, model):
                return value.at(target, model)
        return UNSET

    def scalars(self) -> Iterator[Scalar]:
        for _, value in self.cases:
            yield from value.scalars()

    def plain(self) -> Any:
        return [
            {"where": condition.plain(), "value": value.plain()}
            if condition != Condition()
            else {"value": value.plain()}
            for condition, value in self.cases
        ]


@dataclass(frozen=True)
class ByModel:
    """One value for each model, by its name in the recipe."""

    values: tuple[tuple[str, Constant | Gradient | Filtered], ...]

    def at(self, target: Target, model: str | None = None) -> Any:
        for name, value in self.values:
            if name == model:
                return value.at(target, model)
        return UNSET

    def scalars(self) -> Iterator[Scalar]:
        for _, value in self.values:
            yield from value.scalars()

    def plain(self) -> Any:
        return {name: value.plain() for name, value in self.values}


Value = Constant | Gradient | Filtered | ByModel
Parsed = TypeVar("Parsed")


def parsed(parse: Callable[[Any], Parsed], data: Any) -> Parsed:
    """What `parse` makes of plain data. Raises RecipeError, whatever the data is."""
    try:
        return parse(data)
    except (TypeError, ValueError, OverflowError) as error:  # words where lists belong, endless numbers
        hint = "a number, a gradient such as {gradient: [0, 1]}, or a mapping by model"
        raise RecipeError(f"{reprlib.repr(data)} cannot be read", why=str(error), hint=hint) from None


def looks_at(value: Value) -> set[str]:
    """What of a tensor decides its value: `name`, `role`, `place` (its layer, depth or part), or nothing."""
    match value:
        case Constant():
            return set()
        case Gradient():
            return {"place"}
        case ByModel(values):
            return set().union(*(looks_at(item) for _, item in values))
        case Filtered(cases):
            found = set().union(*(looks_at(item) for _, item in cases))
            for condition, _ in cases:
                asked = {"name": condition.name, "role": condition.roles, "place": condition.layers or condition.parts}
                found |= {word for word, wanted in asked.items() if wanted}
            return found


def parse_value(data: Any, *, nested: bool = False) -> Value:
    """Read a setting's value from plain data. Raises RecipeError (without a place; the caller knows it)."""
    if data is None or isinstance(data, (bool, int, float, str)):
        return Constant(data)
    if isinstance(data, list):
        if not data:
            raise RecipeError("an empty list is no value", hint="a number, {gradient: [0, 1]}, or where/value pairs")
        if all(isinstance(item, dict) for item in data):
            return Filtered(tuple(_parse_case(item) for item in data))
        return Gradient(_points(data))
    if isinstance(data, dict):
        if any(word in data for word in OPEN):
            why, hint = (
                "a merge needs a value here",
                "mergery search RECIPE OUT --tasks FILE finds one, and writes a recipe",
            )
            raise RecipeError("this setting is still to be searched", why=why, hint=hint)
        if "gradient" in data:
            _only(data, {"gradient", "outside"})
            outside = data.get("outside", "ends")
            if outside not in ("ends", "first"):
                raise RecipeError(f"outside is {outside!r}", why="it must be 'ends' or 'first'", hint="outside: ends")
            if not isinstance(data["gradient"], list) or not data["gradient"]:
                raise RecipeError("gradient must be a list of values", hint="gradient: [0, 1]")
            return Gradient(_points(data["gradient"]), outside, named=True)
        if "value" in data:
            return Filtered((_parse_case(data),))
        if nested:
            hint = "write the models outside, and filters inside: {math: [{where: {role: mlp}, value: 0.5}]}"
            raise RecipeError("values by model cannot stand inside values by model or filters", hint=hint)
        result = []
        for name, item in data.items():
            value = parse_value(item, nested=True)
            assert not isinstance(value, ByModel)
            result.append((str(name), value))
        return ByModel(tuple(result))
    raise RecipeError(f"{data!r} is no value", hint="a number, a word, a list or a mapping")


def _points(items: list[Any]) -> tuple[Scalar, ...]:
    for item in items:
        if not isinstance(item, (bool, int, float, str)):
            why, hint = "a gradient is a list of numbers or words", "such as [0, 0.5, 1]"
            raise RecipeError(f"{item!r} cannot stand in a gradient", why=why, hint=hint)
    return tuple(items)


def _parse_case(item: dict[str, Any]) -> tuple[Condition, Constant | Gradient]:
    _only(item, {"where", "value"})
    if "value" not in item:
        raise RecipeError("a filtered value lacks its 'value'", hint="write {where: {role: mlp}, value: 0.5}")
    value = parse_value(item["value"], nested=True)
    if not isinstance(value, (Constant, Gradient)):
        raise RecipeError(
            "filters cannot be nested", hint="put all conditions into one where: {role: mlp, layers: 0-7}"
        )
    return parse_condition(item.get("where") or {}), value


def parse_condition(data: Any) -> Condition:
    """Read a `where:`."""
    if not isinstance(data, dict):
        raise RecipeError("where must be a mapping", hint="such as {role: mlp, layers: 0-7}")
    _only(data, {"layers", "role", "part", "name"})
    roles, parts = _words(data, "role", ROLES), _words(data, "part", PARTS)
    layers = data.get("layers", [])
    layers = layers if isinstance(layers, list) else [layers]
    name = data.get("name")
    if name is not None and not isinstance(name, str):
        raise RecipeError("name must be a pattern over the whole tensor name", hint="name: '*.mlp.*'")
    return Condition(tuple(parse_layers(item) for item in layers), roles, name, parts)


def _words(data: dict[str, Any], key: str, known: tuple[str, ...]) -> tuple[str, ...]:
    words = data.get(key, [])
    words = [words] if isinstance(words, str) else words
    if not isinstance(words, list):
        raise RecipeError(f"{key} must be a word or a list of words, not {words!r}", hint=f"{key}: {known[0]}")
    for word in words:
        if word not in known:
            raise RecipeError(f"unknown {key} {word!r}", hint=did_you_mean(str(word), known))
    return tuple(words)


def parse_layers(data: Any) -> tuple[int, int]:
    """Read a layer range such as `3` or `0-15`: numbers from zero, both ends included."""
    if isinstance(data, int) and not isinstance(data, bool) and data >= 0:
        return (data, data)
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", data) if isinstance(data, str) else None
    if not match:
        raise RecipeError(f"{data!r} is no layer range", hint="write 0-15: counted from zero, both ends included")
    low, high = int(match[1]), int(match[2] or match[1])
    if high < low:
        raise RecipeError(f"the layer range {data!r} runs backwards", hint=f"{high}-{low}, both ends included")
    return (low, high)


def _only(data: dict[str, Any], known: set[str]) -> None:
    for key in data:
        if key not in known:
            raise RecipeError(f"unknown key {key!r}", hint=did_you_mean(str(key), known))
