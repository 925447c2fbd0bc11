"""Reading a merge: its method, models, settings and stack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.dtypes import OUTPUT_DTYPES
from mergery.errors import RecipeError, did_you_mean
from mergery.method import Method
from mergery.recipe.document import KeyPath
from mergery.recipe.overrides import WORDS, Members, read_overrides, read_parts
from mergery.recipe.reader import RecipeReader
from mergery.recipe.recipe import Merge, Slice
from mergery.recipe.shapes import read_growth
from mergery.recipe.values import parse_layers, parsed

KEYS = ("method", "base", "models", "stack", "dtype", *WORDS)
"""The keys of a merge that are no settings."""


def read_merge(
    reader: RecipeReader, data: Any, path: KeyPath, models: Mapping[str, Any], inside: str | None = None
) -> Merge | None:
    """One merge; `inside` is its name where it is a stage. None where it makes no sense."""
    if not isinstance(data, dict):
        reader.fail("merge must be a mapping with a method", path, hint="merge: {method: linear}")
        return None
    word = data.get("method", "passthrough" if "stack" in data else None)
    method = reader.method(word, path, "method" in data)
    base, before = data.get("base"), len(reader.errors)
    if base is not None:
        base = base if reader.name(base, (*path, "base"), models) else None
    elif method is not None and method.base == "required" and "stack" not in data:
        named = next((name for name in models if "base" in str(name).lower()), "<a model's name>")
        reader.fail(f"{method.name} needs a base", path, why="it merges differences from it", hint=f"base: {named}")
    merged = read_models(reader, data, path, models, base, inside)
    known = (
        bool(models) and len(reader.errors) == before
    )  # else what is said of their names and number follows from that
    if method is None:  # what can be checked without it
        read_parts(reader, data, path, Members(merged, base, known=known))
        return None
    if "dtype" in data and str(data["dtype"]) not in OUTPUT_DTYPES:
        reader.fail(
            f"unknown dtype {data['dtype']!r}",
            (*path, "dtype"),
            hint=did_you_mean(str(data["dtype"]), OUTPUT_DTYPES),
        )
    if "dtype" in data and inside is None:
        hint = f"output: {{dtype: {data['dtype']}}}"
        reader.fail("the dtype of the result stands under 'output'", (*path, "dtype"), key=True, hint=hint)
    growth = read_growth(reader, data["stack"], (*path, "stack"), method, models) if "stack" in data else None
    stack = read_slices(reader, data["stack"], path, method, models) if "stack" in data and not growth else ()
    groups = [part.merged for part in stack] or [merged]
    settings, places = reader.settings(data, path, KEYS, method, *(groups if known else ()))
    if "stack" not in data:
        if known:
            reader.count(method, merged, base, path)
        reader.require(method, settings, path)
    slices = tuple((part.merged, part.base or base) for part in stack)
    overrides = read_overrides(reader, data, path, method, Members(merged, base, slices, known))
    place = reader.document.where(path)
    return Merge(method.name, merged, base, settings, stack, data.get("dtype"), place, places, growth, **overrides)


def read_models(
    reader: RecipeReader,
    data: Mapping[str, Any],
    path: KeyPath,
    models: Mapping[str, Any],
    base: Any,
    inside: str | None,
) -> tuple[str, ...]:
    """The names of what is merged: those listed, or every model but the base."""
    if "stack" in data:
        if "models" in data:
            hint = "leave it out, and name them in the slices: stack: [{models: {a: 0-15}}]"
            reader.fail("a stack names its models slice by slice", (*path, "models"), key=True, hint=hint)
        return ()
    if "models" not in data:
        if inside is not None:
            reader.fail(f"the stage {inside!r} does not name its models", path, hint="models: [a, b]")
        return tuple(name for name in models if name != base)
    names = data["models"]
    if not isinstance(names, list) or not names:
        reader.fail("models must be a list of names", (*path, "models"), hint="models: [math, code]")
        return ()
    result: list[str] = []
    listed = [
        (each, index)
        for index, name in enumerate(names)
        for each in (reader.runs.get(name, [name]) if isinstance(name, str) else [name])
    ]
    for name, index in listed:
        at = (*path, "models", index)
        if not reader.name(name, at, models):
            continue
        if name == base:
            reader.fail(f"{name!r} is the base and cannot be merged into itself", at, hint="leave it out of models")
        elif name in result:
            reader.fail(f"{name!r} stands twice", at, hint="give it twice the weight instead")
        else:
            result.append(name)
    return tuple(result)


def read_slices(
    reader: RecipeReader, data: Any, path: KeyPath, method: Method, models: Mapping[str, Any]
) -> tuple[Slice, ...]:
    """The slices of a stack."""
    path = (*path, "stack")
    if not isinstance(data, list) or not data:
        reader.fail(
            "stack must be a list of slices, or a rule",
            path,
            hint="stack: [{models: {a: 0-15}}, {models: {b: 8-31}}], or stack: {upscale: a, drop: 8}",
        )
        return ()
    slices: list[Slice] = []
    for index, item in enumerate(data):
        at = (*path, index)
        if not isinstance(item, dict) or not isinstance(item.get("models"), dict) or not item["models"]:
            reader.fail("a slice names its models with their layers", at, hint="{models: {a: 0-15}}")
            continue
        ranges: list[tuple[str, tuple[int, int]]] = []
        before = len(reader.errors)
        for name, layers in item["models"].items():
            if not reader.name(name, (*at, "models", name), models):
                continue
            try:
                ranges.append((name, parsed(parse_layers, layers)))
            except RecipeError as error:
                reader.keep(error, (*at, "models", name))
        lengths = {high - low + 1 for _, (low, high) in ranges}
        if len(lengths) > 1:
            why, hint = f"{sorted(lengths)} layers", f"give {min(lengths)} layers of each"
            reader.fail("the ranges of a slice differ in length", at, why=why, hint=hint)
        base = item.get("base")
        if base is not None and reader.name(base, (*at, "base"), models) and base not in item["models"]:
            reader.fail(f"the slice gives no layers of its base {base!r}", at, hint=f"models: {{{base}: 0-15, …}}")
        if base is None and method.base == "required":
            reader.fail(f"{method.name} needs a base in each slice", at, hint="base: <a model's name>")
        merged = tuple(name for name, _ in ranges if name != base)
        known = len(reader.errors) == before
        if known:
            reader.count(method, merged, base, at)
        settings, _ = reader.settings(item, at, ("models", "base"), method, *([merged] if known else ()))
        if ranges:
            slices.append(Slice(tuple(ranges), base, settings, reader.document.where(at)))
    return tuple(slices)
