"""A recipe with settings that are still open: ranges and choices, wherever a value stands.

    merge:
      method: dare_ties
      density: {search: [0.1, 1.0]}                      # one number
      weight: {search: [0.0, 1.5], per: model}           # one for each model
      t: {search: [0, 1], points: 4}                     # a gradient of four points over depth
      rescale: {choose: [weight, none]}                  # one of several words

A `Space` is the list of these, each with a name; with a value for each it is an ordinary recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergery.errors import RecipeError, Where, did_you_mean, raise_all
from mergery.recipe.document import Document, KeyPath, read_file
from mergery.recipe.reader import RecipeReader
from mergery.recipe.reading import read_recipe
from mergery.recipe.recipe import Recipe
from mergery.recipe.values import OPEN

ROLES = ("attention", "mlp")  # that `per: role` tells apart, with all the rest together
KEYS = ("search", "choose", "per", "points", "log", "whole")
PER = ("model", "role")
_SHARED: dict[str, Any] = {
    "per": {"anyOf": [{"enum": list(PER)}, {"type": "array", "items": {"enum": list(PER)}}]},
    "points": {"type": "integer", "minimum": 2},
}
_ENDS = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
OPEN_SCHEMA: dict[str, Any] = {
    "search": {
        "type": "object",
        "required": ["search"],
        "additionalProperties": False,
        "properties": {"search": _ENDS, "log": {"type": "boolean"}, "whole": {"type": "boolean"}, **_SHARED},
    },
    "choose": {
        "type": "object",
        "required": ["choose"],
        "additionalProperties": False,
        "properties": {"choose": {"type": "array", "minItems": 2}, **_SHARED},
    },
}
"""What editors are told of open values."""
MOST = 200  # dimensions: more than a search can tell apart


@dataclass(frozen=True)
class Range:
    """A number between two others, both included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that say whether all between them are allowed."""
        return (self.low, self.high)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """All of them."""
        return self.values


@dataclass(frozen=True)
class Dimension:
    """An open value: its name, what it may be, and where it stands in the recipe."""

    name: str
    kind: Range | Choice
    path: KeyPath
    place: Where


@dataclass(frozen=True)
class Space:
    """A recipe with open values."""

    document: Document
    folder: Path
    dimensions: tuple[Dimension, ...]

    def data(self, values: Mapping[str, Any]) -> Any:
        """The recipe's plain data with a value for each dimension, by name."""
        data = self.document.data
        for dimension in self.dimensions:
            data = _put(data, dimension.path, values[dimension.name])
        return data

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with a value for each dimension. Raises RecipeError, or Problems, with places in the file."""
        return read_recipe(RecipeReader(replace(self.document, data=self.data(values))), self.folder)

    def corners(self) -> Iterator[dict[str, Any]]:
        """Values that show whether all are allowed: each end of each dimension, with the first ends of the others."""
        first = {dimension.name: dimension.kind.ends[0] for dimension in self.dimensions}
        yield first
        for dimension in self.dimensions:
            yield from ({**first, dimension.name: end} for end in dimension.kind.ends[1:])


def read_space(source: str | Path | Mapping[str, Any], *, folder: Path | None = None) -> Space:
    """The open values of a recipe, from a file or a mapping. Every end of every range is read as a recipe once.

    Raises RecipeError, or Problems with all that is wrong, each with its place.
    """
    if isinstance(source, Mapping):
        document, home = Document(dict(source), "recipe"), Path()
    else:
        documents, home = read_file(Path(source)), Path(source).parent
        if len(documents) > 1:
            hint = "keep one recipe in a file"
            raise RecipeError("more than one YAML document", where=documents[1].where(), hint=hint)
        document = documents[0]
    reader = RecipeReader(document)
    data = _unfolded(document.data, (), reader, document.data)
    found = tuple(_dimensions(data, (), reader))
    for dimension in found:
        if dimension.path[0] != "merge" and not (dimension.path[0] == "models" and len(dimension.path) > 2):
            why = "settings of methods are searched, in the merge or in a stage"
            reader.fail(
                f"{dimension.name!r} cannot be searched", dimension.path, why=why, hint="weight: {search: [0, 1.5]}"
            )
    raise_all(list({str(error): error for error in reader.errors}.values()))  # what is wrong is wrong for each model
    if not found:
        read_recipe(RecipeReader(document), folder or home)  # which says where a value is misspelt
        why, hint = "it has no {search: [low, high]} and no {choose: [...]}", "weight: {search: [0, 1.5], per: model}"
        raise RecipeError("nothing is to be searched in this recipe", where=document.where(), why=why, hint=hint)
    if len(found) > MOST:
        why = f"it has {len(found)} open values, of at most {MOST}"
        hint = "fewer points, or one value for several models: 10 to 20 are found in some hundred trials"
        raise RecipeError("too much is to be searched", where=found[0].place, why=why, hint=hint)
    space = Space(replace(document, data=data), folder or home, found)
    for values in space.corners():
        space.recipe(values)
    return space


def is_open(item: Any) -> bool:
    """Whether a value is still to be found."""
    return isinstance(item, Mapping) and any(word in item for word in OPEN)


def _unfolded(item: Any, path: KeyPath, reader: RecipeReader, root: Any) -> Any:
    """The data with `per` and `points` written out: an open value for each model, role or point."""
    if is_open(item):
        return _written_out(dict(item), path, reader, root)
    if isinstance(item, Mapping):
        return {key: _unfolded(value, (*path, key), reader, root) for key, value in item.items()}
    if isinstance(item, list):
        return [_unfolded(value, (*path, index), reader, root) for index, value in enumerate(item)]
    return item


def _written_out(item: dict[str, Any], path: KeyPath, reader: RecipeReader, root: Any) -> Any:
    reader.only(item, path, KEYS)
    per, points = item.pop("per", []), item.pop("points", None)
    each = per if isinstance(per, list) else [per]
    for word in each:
        if word not in PER:
            reader.fail(f"per is {word!r}", (*path, "per"), hint=did_you_mean(str(word), PER))
            return item
    value: Any = item
    if points is not None:
        if not isinstance(points, int) or isinstance(points, bool) or points < 2:
            hint = "points: 4 for a gradient of four points over depth"
            reader.fail(f"points is {points!r}", (*path, "points"), hint=hint)
            return item
        value = {"gradient": [dict(item) for _ in range(points)]}
    if "role" in each:
        own = [{"where": {"role": role}, "value": value} for role in ROLES]
        value = [*own, {"value": value}]
    if "model" in each:
        names = _models(path, root)
        if not names:
            why = "the merge above it names no models"
            reader.fail("there are no models to search for", (*path, "per"), why=why, hint="models: [math, code]")
            return item
        value = dict.fromkeys(names, value)
    return value


def _models(path: KeyPath, root: Any) -> list[str]:
    """The models of the merge in which a value stands."""
    for depth in range(len(path), 0, -1):
        above = _get(root, path[:depth])
        if isinstance(above, Mapping) and ("method" in above or "stack" in above):
            named = above.get("models")
            if isinstance(named, Mapping):
                named = list(named)
            if not named and path[0] == "merge":
                known = root.get("models")
                named = list(known) if isinstance(known, Mapping) else []
            return [str(name) for name in named or [] if name != above.get("base")]
    return []


def _dimensions(item: Any, path: KeyPath, reader: RecipeReader, name: tuple[str, ...] = ()) -> Iterator[Dimension]:
    if is_open(item):
        kind = _read_kind(item, path, reader)
        if kind is not None:
            said = name[1:] if name[0] == "merge" and len(name) > 1 else name
            yield Dimension(".".join(said), kind, path, reader.document.where(path))
    elif isinstance(item, (Mapping, list)):
        pairs = item.items() if isinstance(item, Mapping) else enumerate(item)
        for key, value in pairs:
            yield from _dimensions(value, (*path, key), reader, (*name, *_words(key, value)))


def _words(key: Any, value: Any) -> tuple[str, ...]:
    """What a key adds to the name of a dimension: `weight.math.mlp`, or `models.blend.t` of a stage."""
    if isinstance(key, int) and isinstance(value, Mapping) and "value" in value:
        role = (value.get("where") or {}).get("role", "rest" if "where" not in value else str(key))
        return (str(role),)
    return () if key in ("gradient", "value") else (str(key),)


def _read_kind(item: Mapping[str, Any], path: KeyPath, reader: RecipeReader) -> Range | Choice | None:
    reader.only(item, path, KEYS)
    if "choose" in item:
        values = item["choose"]
        extra = [key for key in ("search", "log", "whole") if key in item]
        if extra:
            reader.fail(f"choose and {extra[0]} do not go together", path, hint="choose: [weight, none]")
        elif not isinstance(values, list) or len(values) < 2 or len({repr(value) for value in values}) < len(values):
            why, hint = "it must be a list of two values or more, each another", "choose: [weight, none]"
            reader.fail(f"choose is {values!r}", (*path, "choose"), why=why, hint=hint)
        else:
            return Choice(tuple(values))
        return None
    ends = item["search"]
    numbers = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))
    if not numbers or not ends[0] < ends[1]:
        why = "it must be two numbers, the smaller one first"
        reader.fail(f"search is {ends!r}", (*path, "search"), why=why, hint="search: [0, 1.5]")
        return None
    for key in ("log", "whole"):
        if not isinstance(item.get(key, False), bool):
            reader.fail(f"{key} is {item[key]!r}", (*path, key), why="it must be true or false", hint=f"{key}: true")
            return None
    if item.get("log") and ends[0] <= 0:
        why = "a logarithm is of numbers above zero"
        reader.fail(f"search is {ends!r} with log", (*path, "search"), why=why, hint="search: [0.001, 1]")
        return None
    whole = bool(item.get("whole"))
    if whole and any(end != int(end) for end in ends):
        reader.fail(
            f"search is {ends!r} with whole", (*path, "search"), why="both must be whole", hint="search: [1, 9]"
        )
        return None
    kind = int if whole else float
    return Range(kind(ends[0]), kind(ends[1]), bool(item.get("log")), whole)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _get(data: Any, path: KeyPath) -> Any:
    for key in path:
        data = data[key]
    return data


def _put(data: Any, path: KeyPath, value: Any) -> Any:
    """A copy of data with a value at a path that is there."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(data, list):
        return [*data[:key], _put(data[key], rest, value), *data[key + 1 :]]
    return {**data, key: _put(data[key], rest, value)}
