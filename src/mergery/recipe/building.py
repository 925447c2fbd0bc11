"""A recipe from Python's own words: models, a method and its settings, without a file and without nesting."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mergery.errors import RecipeError
from mergery.method import Method, find
from mergery.recipe.recipe import Recipe


def build_recipe(
    models: Mapping[str, Any] | Sequence[Any] | None,
    method: str | Method | None,
    base: Any = None,
    *,
    settings: Mapping[str, Any],
    **sections: Any,
) -> dict[str, Any]:
    """The mapping that a recipe's file would hold.

    models:   sources by name, or in a list, where they are called by their folders: paths, hub ids, state dicts or modules.
    base:     the name of one of them, or another source, which is then called `base`.
    settings: what stands under `merge`. A setting of each model may be a list with one value for each, in their order.
    sections: `output`, `vocabulary`, `seed`, `drop`, `allow`; None where nothing is said.

    Raises RecipeError.
    """
    if not models:
        raise RecipeError("no models are given", hint="merge(models={'a': './a', 'b': './b'}, method='linear')")
    if method is None:
        raise RecipeError("no method is given", hint="merge(models=..., method='linear')")
    if isinstance(models, (str, bytes, os.PathLike)):
        raise RecipeError("models are a mapping of names to sources, or a list", hint=f"models=[{str(models)!r}, ...]")
    sources = dict(models) if isinstance(models, Mapping) else named(list(models))
    found = find(method) if isinstance(method, str) else method
    origin = None if base is None else base_name(sources, base)
    if origin is not None and origin not in sources:
        sources = {origin: base, **sources}
    merged = [name for name in sources if name != origin]
    merge: dict[str, Any] = {"method": found.name, **({"base": origin} if origin is not None else {})}
    for name, value in settings.items():
        merge[name] = by_model(found, name, value, merged)
    return {"models": sources, "merge": merge, **{name: value for name, value in sections.items() if value is not None}}


OF_A_RUN = ("threads", "chunk", "device")
"""What `mergery.Options` takes, which is no setting of a method."""


def stated_recipe(
    recipe: Any,
    models: Mapping[str, Any] | Sequence[Any] | None,
    method: str | Method | None,
    base: Any,
    settings: Mapping[str, Any],
    sections: Mapping[str, Any],
) -> Any:
    """A recipe as it is given, or the same said by keywords. Raises RecipeError where it is said twice, or not at all."""
    keywords = {"models": models, "method": method, "base": base, **sections}
    said = [*(name for name, value in keywords.items() if value is not None), *settings]
    if recipe is None:
        return build_recipe(models, method, base, settings=settings, **sections)
    if said:
        why = f"{', '.join(said)} would say something twice, or is no argument"
        hint = "put it into the recipe"
        run = [name for name in said if name in OF_A_RUN]
        hint = f"options=mergery.Options({run[0]}={settings[run[0]]!r})" if run == said else hint
        raise RecipeError("a recipe is given, and keywords beside it", why=why, hint=hint)
    if not isinstance(recipe, (Recipe, str, os.PathLike, Mapping)):
        hint = "merge(models=[...], method='linear') takes models in a list"
        raise RecipeError(f"a {type(recipe).__name__} is no recipe", hint=hint)
    return recipe


def named(sources: list[Any]) -> dict[str, Any]:
    """Sources by the names of their folders, where each has one of its own; else model1, model2, ..."""
    names = [name_of(source) for source in sources]
    if None in names or len(set(names)) < len(names):
        names = [f"model{number}" for number in range(1, len(sources) + 1)]
    return dict(zip(map(str, names), sources, strict=True))


def name_of(source: Any) -> str | None:
    """What a source is called: the last part of its path or hub id; None for an object in memory."""
    path = source.get("path") if isinstance(source, Mapping) and "path" in source else source
    if not isinstance(path, (str, os.PathLike)):
        return None
    last = PurePath(os.fspath(path)).name.partition("@")[0]
    return re.sub(r"[^\w.-]+", "-", last) or None


def base_name(sources: Mapping[str, Any], base: Any) -> str:
    """The name of the base among the sources, or the one that it gets."""
    if isinstance(base, str) and base in sources:
        return base
    same = [name for name, source in sources.items() if source is base or (isinstance(base, str) and source == base)]
    if same:
        return same[0]
    if "base" in sources:
        raise RecipeError("one of the models is called 'base', and another is given as base", hint="base='base'")
    return "base"


def by_model(method: Method, name: str, value: Any, merged: Sequence[str]) -> Any:
    """A setting as a recipe has it: one value for each model by name, where it is given as a list."""
    setting = method.settings.get(name)
    value = value.tolist() if hasattr(value, "tolist") else value  # of numpy
    if setting is None or not setting.per_model or not isinstance(value, (list, tuple)) or len(value) != len(merged):
        return list(value) if isinstance(value, tuple) else value
    return dict(zip(merged, value, strict=True))
