"""Models that a recipe gives by their paths alone: each gets a name, as if it stood under `models`."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mergery.recipe.document import Document, KeyPath

NAMING = ("base", "models", "upscale", "insert")
"""Keys whose paths become models; under others, a path is the name of the model that has it."""


def is_path(word: Any) -> bool:
    """Whether a word that should be the name of a model is a path, or an id of the hub."""
    return isinstance(word, str) and (word.startswith((".", "~")) or "/" in word or os.sep in word)


def short_name(path: str, taken: Iterable[str] = ()) -> str:
    """A name for a model of which only the path is known: its last part, with a number where that is taken."""
    parts = [
        part for part in PurePosixPath(path).parts if not glob.has_magic(part) and part not in ("/", ".", "..", "~")
    ]
    last, taken = (parts[-1] if parts else "model"), set(taken)
    return next(
        name for name in (last, *(f"{last}-{number}" for number in range(2, len(taken) + 3))) if name not in taken
    )


def name_paths(data: Mapping[str, Any], document: Document) -> dict[str, Any]:
    """The recipe with a name for each model that is given by its path, in a list of models or in a merge."""
    models = data.get("models")
    if isinstance(models, list) and models and all(_path_of(item) for item in models):
        named: dict[str, Any] = {}
        for index, item in enumerate(models):
            name = short_name(_path_of(item), named)
            named[name] = item
            move(document, ("models", index), ("models", name))
        models = named
    if not isinstance(models, Mapping):
        return dict(data)
    naming = _Naming(
        document, {str(path): name for name, path in models.items() if isinstance(path, str)}, set(map(str, models))
    )
    stages = {name: naming.renamed(item, ("models", name)) for name, item in models.items() if _is_merge(item)}
    rest = {key: naming.renamed(data[key], (key,)) for key in ("merge", "output") if isinstance(data.get(key), Mapping)}
    rest |= {key: naming.renamed(data[key], (key,)) for key in ("align",) if data.get(key)}
    return {**data, **rest, "models": {**models, **stages, **naming.added}}


def rebased(data: Mapping[str, Any], old: Path, new: Path) -> dict[str, Any]:
    """A recipe's data for a file in another folder: relative paths of models that are there are told from `new` on."""

    def told(path: Any) -> Any:
        if isinstance(path, str) and not path.startswith(("~", "/")):
            parts = path.split("+")  # a model with adapters on it
            if all((old / part).exists() for part in parts):
                return "+".join(os.path.relpath(old / part, new) for part in parts)
        return path

    return _with_paths(data, told)


def placeless(data: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's data without the paths of models that have names: equal for recipes of models that were moved in between."""
    named = isinstance(data.get("models"), Mapping)
    return _with_paths(data, lambda path: "" if isinstance(path, str) else path) if named else dict(data)


def _with_paths(data: Mapping[str, Any], told: Callable[[Any], Any]) -> dict[str, Any]:
    """A recipe's data with other paths of its models, their statistics, transforms and adapters."""

    def moved(item: Any) -> Any:
        if isinstance(item, Mapping) and not _is_merge(item):
            own = {key: told(item[key]) for key in ("path", "statistics", "transform") if key in item}
            if isinstance(statistics := item.get("statistics"), Mapping):
                own["statistics"] = {name: told(folder) for name, folder in statistics.items()}
            adapters = item.get("adapters")
            if isinstance(adapters, list):
                own["adapters"] = [moved(each) if isinstance(each, Mapping) else told(each) for each in adapters]
            return {**item, **own}
        return told(item)

    models = data.get("models")
    if isinstance(models, Mapping):
        return {**data, "models": {name: moved(item) for name, item in models.items()}}
    if isinstance(models, list):
        return {**data, "models": [moved(item) for item in models]}
    return dict(data)


def move(document: Document, old: KeyPath, new: KeyPath) -> None:
    """Let what is read under another path be told of where it stands."""
    for places in (document.keys, document.values):
        for path in [path for path in places if path[: len(old)] == old]:
            places[(*new, *path[len(old) :])] = places[path]


def _path_of(item: Any) -> str:
    path = item.get("path") if isinstance(item, Mapping) else item
    return path if isinstance(path, str) else ""


def _is_merge(item: Any) -> bool:
    return isinstance(item, Mapping) and ("method" in item or "stack" in item)


class _Naming:
    """Puts names in the place of paths, and keeps the models that they add."""

    def __init__(self, document: Document, names: dict[str, str], taken: set[str]) -> None:
        self.document, self.taken = document, taken
        self.names = {os.path.normpath(path): name for path, name in names.items() if is_path(path)}
        self.added: dict[str, str] = {}

    def name(self, word: Any, *, naming: bool, at: KeyPath) -> Any:
        if not is_path(word) or word in self.taken:
            return word
        path = os.path.normpath(word)
        if path not in self.names and naming:
            name = self.names[path] = short_name(word, self.taken)
            self.taken.add(name)
            self.added[name] = word
            move(self.document, at, ("models", name))
        return self.names.get(path, word)

    def renamed(self, data: Any, path: KeyPath, *, naming: bool = False) -> Any:
        """A part of a merge, or of a section, with names for paths."""
        if isinstance(data, Mapping):
            result: dict[Any, Any] = {}
            for key, value in data.items():
                name = self.name(key, naming=naming, at=(*path, key))
                if name != key:
                    move(self.document, (*path, key), (*path, name))
                inside = (*path, name)
                result[name] = value if key == "where" else self.renamed(value, inside, naming=key in NAMING)
            return result
        if isinstance(data, list):
            return [self.renamed(item, (*path, index), naming=naming) for index, item in enumerate(data)]
        return self.name(data, naming=naming, at=path)
