"""Which tensors get what, in a recipe: a preset, the rest, and parts that are treated otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergery.errors import RecipeError, did_you_mean
from mergery.method import Method
from mergery.method.roles import BASE, Preset
from mergery.recipe.document import KeyPath
from mergery.recipe.reader import RecipeReader
from mergery.recipe.recipe import Override
from mergery.recipe.values import Condition, parse_condition, parsed

WORDS = ("preset", "rest", "parts")


@dataclass(frozen=True)
class Members:
    """What is merged where: the models of the merge, or of each slice of a stack, with their base."""

    merged: tuple[str, ...]
    base: str | None
    slices: tuple[tuple[tuple[str, ...], str | None], ...] = ()
    known: bool = True  # else some names are wrong, and nothing more is said of them

    @property
    def groups(self) -> tuple[tuple[tuple[str, ...], str | None], ...]:
        return self.slices or ((self.merged, self.base),)

    @property
    def names(self) -> list[str]:
        """All of them, without repetition."""
        named = [name for merged, base in self.groups for name in (*merged, base) if name]
        return list(dict.fromkeys([*named, *([self.base] if self.base else [])]))


def read_overrides(
    reader: RecipeReader, data: Mapping[str, Any], path: KeyPath, method: Method, members: Members
) -> dict[str, Any]:
    """`preset`, `rest` and `parts` of a merge, as arguments of `Merge`."""
    word = data.get("preset")
    if "preset" in data and (not isinstance(word, str) or word not in method.presets):
        why = f"it has {', '.join(method.presets)}" if method.presets else "it has none"
        hint = did_you_mean(str(word), method.presets) if method.presets else "leave it out: the defaults are its own"
        reader.fail(f"{method.name} has no preset {word!r}", (*path, "preset"), why=why, hint=hint)
        word = None
    rest = None
    if "rest" in data:
        if roles_of(method, word) is None:
            why = "so nothing is left for it"
            hint = "name the tensors under 'parts'"
            reader.fail(f"{method.name} works on every tensor", (*path, "rest"), key=True, why=why, hint=hint)
        else:
            rest = _override(reader, as_mapping(data["rest"]), (*path, "rest"), members, where=False)
    return {"preset": word, "rest": rest, "overrides": read_parts(reader, data, path, members)}


def roles_of(method: Method, preset: str | None) -> tuple[str, ...] | None:
    """The roles on which a method works, as its preset says or as it says itself; None for all."""
    chosen = method.presets.get(preset or "", Preset())
    return chosen.roles or method.roles


def as_mapping(rest: Any) -> Any:
    """`base` and a method's name as the mappings they stand for."""
    if rest == BASE:
        return {"take": BASE}
    return {"method": rest} if isinstance(rest, str) else rest


def read_parts(reader: RecipeReader, data: Mapping[str, Any], path: KeyPath, members: Members) -> tuple[Override, ...]:
    """`parts` of a merge."""
    items = data.get("parts", [])
    path = (*path, "parts")
    hint = "parts: [{where: {role: [embed, head]}, take: base}]"
    if not isinstance(items, list) or ("parts" in data and not items):
        reader.fail("parts must be a list of what tensors get", path, hint=hint)
        return ()
    found: list[Override] = []
    for index, item in enumerate(items):
        if not isinstance(item, dict) or "where" not in item:
            reader.fail("a part says where it is", (*path, index), hint="{where: {role: norm}, method: linear}")
            continue
        part = _override(reader, item, (*path, index), members, where=True)
        found += [part] if part is not None else []
    return tuple(found)


def _override(reader: RecipeReader, item: Any, path: KeyPath, members: Members, *, where: bool) -> Override | None:
    if not isinstance(item, Mapping):
        reader.fail(f"{item!r} is no treatment", path, hint="a method's name, base, or {method: linear}")
        return None
    condition = Condition()
    if where:
        try:
            condition = parsed(parse_condition, item["where"])
        except RecipeError as error:
            reader.keep(error, (*path, "where"))
    if ("take" in item) == ("method" in item):
        reader.fail("it names a method, or a model to take from", path, hint="method: linear, or take: base")
        return None
    place = reader.document.where(path)
    reserved = ("where", "method") if where else ("method",)
    if "take" in item:
        reader.only(item, path, ("where", "take") if where else ("take",))
        return _take(reader, item["take"], path, members, condition)
    method = reader.method(item["method"], path, given=True)
    if method is None:
        return None
    groups = members.groups if members.known else ()
    for merged, base in groups:
        reader.count(method, merged, base, path)
        if method.base == "required" and base is None:
            why, hint = "it merges differences from it", "base: <a model's name>, beside the merge's method"
            reader.fail(f"{method.name} needs a base", path, why=why, hint=hint)
    settings, places = reader.settings(item, path, reserved, method, *(merged for merged, _ in groups))
    reader.require(method, settings, path)
    return Override(condition, method.name, None, settings, place, places)


def _take(reader: RecipeReader, name: Any, path: KeyPath, members: Members, condition: Condition) -> Override | None:
    """A part that takes the tensors of a model. `base` is the merge's own; where it has none, the model of that name."""
    at = (*path, "take")
    if not members.known:
        return None
    others = [base for merged, base in members.groups if base not in (None, BASE) and BASE in merged]
    if name == BASE and others:
        why = f"the base is {others[0]!r}, and a model that is merged is called 'base'"
        reader.fail("'base' says two things here", at, why=why, hint="give that model another name")
    elif name == BASE and BASE not in members.names and None in [base for _, base in members.groups]:
        reader.fail("there is no base to take from", at, hint="base: <a model's name>")
    elif name != BASE and name not in members.names:
        why = "it is none of the models of this merge"
        hint = did_you_mean(str(name), dict.fromkeys((*members.names, BASE)))
        reader.fail(f"cannot take from {name!r}", at, why=why, hint=hint)
        return None
    return Override(condition, None, name, place=reader.document.where(path))
