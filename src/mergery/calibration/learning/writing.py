"""A learnt recipe as a file: an ordinary recipe, and what it was learnt from in a key of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergery.recipe import Merge, Recipe, Source
from mergery.recipe.document import write_yaml
from mergery.run.output import write_at_once

KEY = "x-learned"


def write(recipe: Recipe, out: Path, said: Mapping[str, Any]) -> None:
    """Write a recipe with its models' paths as they are from the file's folder."""
    models = {name: _moved(model, recipe.folder, out.parent) for name, model in recipe.models.items()}
    plain = replace(recipe, models=models).plain()
    weight = plain["merge"].pop("weight")
    head = write_yaml({**plain, KEY: dict(said)})
    lines = head.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("merge:"))
    end = next((place for place in range(at + 1, len(lines)) if not lines[place].startswith((" ", "-"))), len(lines))
    write_at_once(out, "\n".join([*lines[:end], *_weights(weight), *lines[end:]]) + "\n")


def _weights(weight: Mapping[str, Any]) -> list[str]:
    """The weights by model, a line for each tensor."""
    lines = ["  weight:"]
    for model, value in weight.items():
        (named,) = write_yaml({model: 0}).splitlines()
        name = named.removesuffix(" 0")
        if not isinstance(value, list):
            lines.append(f"    {name} {value}")
            continue
        lines.append(f"    {name}")
        for case in value:
            where = f"where: {_flow(case['where'])}, " if "where" in case else ""
            lines.append(f"      - {{{where}value: {case['value']}}}")
    return lines


def _flow(where: Mapping[str, Any]) -> str:
    import json

    ((key, value),) = where.items()
    return f"{{{key}: {value if str(value).isdigit() else json.dumps(value, ensure_ascii=False)}}}"


def _moved(model: Source | Merge, folder: Path, home: Path) -> Source | Merge:
    """A source whose relative paths were from one folder, as it is from another."""
    if not isinstance(model, Source):
        return model
    path = (
        "+".join(_path(part, folder, home) for part in str(model.path).split("+"))
        if isinstance(model.path, str)
        else model.path
    )
    return replace(
        model,
        path=path,
        adapters=tuple(_path(each, folder, home) if isinstance(each, str) else each for each in model.adapters),
        statistics={name: _path(each, folder, home) for name, each in model.statistics.items()}
        if isinstance(model.statistics, Mapping)
        else _path(model.statistics, folder, home)
        if model.statistics
        else None,
    )


def _path(path: str, folder: Path, home: Path) -> str:
    """A path that is there as a file or folder, from another folder; what is none, such as a hub id, as it is."""
    if not path or path.startswith("~") or Path(path).is_absolute() or not (folder / path).exists():
        return path
    found = os.path.relpath((folder / path).resolve(), home.resolve())
    return found if found.startswith(".") else f"./{found}"
