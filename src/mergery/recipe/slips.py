"""What to try in place of a word that is not known: what is near, or what other tools call it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mergery.errors import did_you_mean, listed
from mergery.recipe.paths import is_path, short_name

SLIP = 0.8  # likeness from which on a key is taken for a known one that is misspelt


def meant(key: str, known: Iterable[str]) -> str | None:
    """The known key that is misspelt, if it is one."""
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=SLIP)
    return near[0] if near else None


def model_hint(name: Any, models: Mapping[str, Any]) -> str:
    """What to try in place of a name that no model has."""
    if is_path(name):
        short = short_name(str(name), models)
        return f"name it under 'models', {{{short}: {name}}}, and say {short} here"
    return did_you_mean(str(name), models) or "name the models: models: {a: ./a, b: ./b}"


def models_hint(data: Any) -> str:
    """How models are named, from what stands in the place of the mapping or the list of paths that `models` must be."""
    example = "models: {base: ./base, math: ./math}"
    if isinstance(data, str):
        torn = re.findall(r"(\S+?):(\S+)", data)
        if torn and not is_path(data.partition(":")[0]):
            return f"put a space behind each colon: {torn[0][0]}: {torn[0][1]}"
        return f"models: {{{short_name(data)}: {data}}}" if is_path(data) else example
    entries = data if isinstance(data, list) and all(isinstance(each, Mapping) and each for each in data) else []
    if entries and all("model" in each for each in entries):
        paths = [str(each["model"]) for each in entries]
        return (
            f"models: [{', '.join(paths)}], and settings under merge, such as weight: {{{short_name(paths[0])}: 0.5}}"
        )
    if entries and all(len(each) == 1 for each in entries):
        named = ", ".join(f"{name}: {path}" for each in entries for name, path in each.items())
        return f"leave out the dashes: models: {{{named}}}"
    return example


def other_file(data: Mapping[Any, Any]) -> tuple[str, str]:
    """What a mapping is that has nothing of a recipe, and what to try."""
    if "architectures" in data or "model_type" in data:
        return "it is the config of a model", "name that model's folder in a recipe: models: {a: ./a, b: ./b}"
    names = listed([str(key) for key in data])
    return f"it has {names}, and neither 'models' nor 'merge'", "models: {a: ./a, b: ./b} and merge: {method: linear}"
