"""Other shapes and names in a recipe: conversions and renames of a source, and stacks by rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.errors import Where
from mergery.method import Method
from mergery.recipe.document import KeyPath
from mergery.recipe.reader import RecipeReader
from mergery.recipe.recipe import GROWTHS, Growth
from mergery.recipe.source import CONVERSIONS


def read_conversions(reader: RecipeReader, data: Any, path: KeyPath) -> tuple[dict[str, int], dict[str, Where]]:
    """The `convert` of a source, and the places of its entries."""
    if not isinstance(data, dict) or not data:
        reader.fail("convert must be a mapping", path, hint=f"convert: {{{CONVERSIONS[0]}: 8}}")
        return {}, {}
    reader.only(data, path, CONVERSIONS)
    wanted: dict[str, int] = {}
    for key in CONVERSIONS:
        value = data.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
            wanted[key] = value
        elif key in data:
            reader.fail(
                f"{key} is {value!r}", (*path, key), why="it must be a whole number above zero", hint=f"{key}: 8"
            )
    return wanted, {key: reader.document.where((*path, key)) for key in wanted}


def read_rename(reader: RecipeReader, data: Any, path: KeyPath) -> dict[str, str]:
    """The `rename` of a source: patterns of its tensors' names, and the names that they get."""
    if not isinstance(data, dict) or not data:
        reader.fail("rename must be a mapping", path, hint="rename: {'transformer.*': 'model.*'}")
        return {}
    rules: dict[str, str] = {}
    for old, new in data.items():
        if not isinstance(old, str) or not isinstance(new, str) or not old or not new:
            what = f"rename gives {old!r} the name {new!r}"
            reader.fail(
                what, (*path, old), why="both are patterns of names", hint="rename: {'transformer.*': 'model.*'}"
            )
        elif old.count("*") != new.count("*"):
            why = "what each * stands for in the old name is put in place of the same * in the new one"
            reader.fail(f"{old!r} and {new!r} have not as many *", (*path, old), why=why, hint=f"{old!r}: {old!r}")
        else:
            rules[old] = new
    return rules


def read_growth(
    reader: RecipeReader, data: Any, path: KeyPath, method: Method, models: Mapping[str, Any]
) -> Growth | None:
    """The `stack` of a merge that is a rule; None for slices, and for what is neither."""
    rule = next((rule for rule in GROWTHS if rule in data), None) if isinstance(data, dict) else None
    if rule is None:
        return None
    number = GROWTHS[rule]
    reader.only(data, path, (rule, number))
    if method.name != "passthrough":
        reader.fail(f"{method.name} cannot {rule}", path, why="the layers are copied", hint="method: passthrough")
    reader.name(data[rule], (*path, rule), models)
    layers = data.get(number)
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
        what = f"{rule} needs {number!r}" if number not in data else f"{number} is {layers!r}"
        at = (*path, number) if number in data else path
        reader.fail(what, at, why="it is a number of layers, one or more", hint=f"{{{rule}: base, {number}: 8}}")
        return Growth(rule, str(data[rule]), 1)
    return Growth(rule, str(data[rule]), layers, reader.document.where(path))
