"""Keys that are misspelt, misplaced or another tool's: told once, and read as what they were meant to be.

What would follow from such a mistake, as models that are missing where `models` is misspelt, is so never told as another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.method import methods
from mergery.recipe.document import KeyPath
from mergery.recipe.merge import KEYS as MERGE
from mergery.recipe.paths import move
from mergery.recipe.reader import RecipeReader
from mergery.recipe.slips import meant

KEYS = (
    "models",
    "merge",
    "output",
    "vocabulary",
    "seed",
    "drop",
    "tensors",
    "allow",
    "calibration",
    "refine",
    "protect",
    "align",
)
"""The keys of a recipe."""

OTHERS = {
    "merge_method": "method", "base_model": "base", "model": "models", "sources": "models", "slices": "stack",
}  # fmt: skip
"""Keys of a merge, as other tools call them."""

PLACES = {
    **dict.fromkeys(
        ("method", "base", "stack", "rest", "parts", "preset", "merge_method", "base_model", "slices"), "merge"
    ),
    **dict.fromkeys(("dtype", "shard_size", "config", "tokenizer", "chat_template"), "output"),
}
"""Keys at the top of a recipe that belong into a section."""

SAID = {
    "out_dtype": "output: {dtype: bfloat16}",
    "tokenizer_source": "output: {tokenizer: union}",
    "parameters": "settings stand beside the method: merge: {method: ties, density: 0.2}",
    "random_seed": "seed: 0",
    "name": "leave it out: a recipe has no name",
}
"""Keys of other tools at the top of a recipe, and what it says instead."""


MANY = 4
"""So many keys that are no recipe's, beside one at most that is or could be meant as one, are those of another file."""


def is_other_file(data: Mapping[Any, Any]) -> bool:
    """Whether a mapping is another file, and no recipe with mistakes."""
    known = (*KEYS, *PLACES, *OTHERS, *SAID)
    understood = sum(key in known or meant(str(key), KEYS) is not None for key in data)
    return understood < 2 and len(data) - understood >= MANY


def repaired(reader: RecipeReader, data: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with every key that can be understood under its own name; each that is not right is told."""
    result = _sections(reader, data)
    for name, item in list(result.items()):
        if name == "merge" and isinstance(item, Mapping):
            result[name] = _merge(reader, item, (name,))
        if name == "models" and isinstance(item, Mapping):
            stages = {
                each: _merge(reader, stage, (name, each))
                for each, stage in item.items()
                if isinstance(stage, Mapping) and ("merge_method" in stage or "method" in stage or "stack" in stage)
            }
            result[name] = {**item, **stages}
    return result


def _without_colon(key: Any, value: Any) -> tuple[str, str] | None:
    """A key and its value of `key value`, behind which a colon is missing."""
    words = str(key).split(maxsplit=1)
    return (words[0], words[1]) if value is None and len(words) == 2 else None


def _sections(reader: RecipeReader, data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of the top: those that are unknown are told, and read where they belong."""
    result = {key: value for key, value in data.items() if key in KEYS}
    settings = {name for method in methods().values() for name in method.settings}
    misplaced: dict[str, list[str]] = {}
    for key, value in data.items():
        if key in KEYS or reader.holds(str(key), KEYS):
            continue
        near = "models" if key in OTHERS and OTHERS[key] == "models" else meant(str(key), KEYS)
        section = PLACES.get(key) or ("merge" if key in settings and not near else None)
        inner = OTHERS.get(key, key)
        if section:
            misplaced.setdefault(section, []).append(key)
            inside = result.get(section, {})
            if isinstance(inside, Mapping) and inner not in inside:
                result[section] = {**inside, inner: value}
                move(reader.document, (key,), (section, inner))
            continue
        if near and near not in data:
            result[near] = value
            move(reader.document, (key,), (near,))
        hint = SAID.get(key) or reader.known(str(key), KEYS)
        reader.fail(f"unknown key {key!r}", (key,), key=True, hint=hint)
    for section, keys in misplaced.items():
        what = f"unknown key {keys[0]!r}" if len(keys) == 1 else f"unknown keys {', '.join(map(repr, keys))}"
        shown = [f"{OTHERS.get(key, key)}: {_shown(data[key])}" for key in keys]
        hint = f"{section}: {{{', '.join(shown)}}}"
        reader.fail(what, (keys[0],), key=True, why=f"they stand under {section!r}" if len(keys) > 1 else "", hint=hint)
    return result


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else "…"


def _merge(reader: RecipeReader, data: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
    """A merge whose keys that are misspelt, or another tool's, are told and read; settings are left as they are."""
    settings = {name for method in methods().values() for name in method.settings}
    result: dict[str, Any] = {}
    for key, value in data.items():
        torn = _without_colon(key, value)
        if torn and key not in MERGE and torn[0] in (*MERGE, *settings):
            result[torn[0]] = torn[1]
            move(reader.document, (*path, key), (*path, torn[0]))
            hint = f"put a colon behind it: {torn[0]}: {torn[1]}"
            reader.fail(f"unknown key {key!r}", (*path, key), key=True, hint=hint)
            continue
        name = OTHERS.get(key) or (meant(str(key), MERGE) if key not in settings else None)
        if key in MERGE or name is None or name in data or name in result:
            result[key] = value
            continue
        listed = name == "models" and isinstance(value, str)
        result[name] = [value] if listed else value
        move(reader.document, (*path, key), (*path, name))
        shown = f"{name}: {value}" if isinstance(value, str) and not listed else f"did you mean {name!r}?"
        reader.fail(f"unknown key {key!r}", (*path, key), key=True, hint=shown)
    return result
