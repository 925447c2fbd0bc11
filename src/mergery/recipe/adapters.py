"""Adapters in a recipe: those that are put on a source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.checkpoints.adapted import ROUNDINGS
from mergery.errors import did_you_mean
from mergery.recipe.document import KeyPath
from mergery.recipe.reader import RecipeReader


def read_adapters(reader: RecipeReader, data: Mapping[str, Any], path: KeyPath) -> tuple[tuple[Any, ...], str]:
    """The `adapters` of a source, one or several, and its `rounding`."""
    adapters = data.get("adapters", [])
    adapters = adapters if isinstance(adapters, list) else [adapters]
    if not all(adapters) or any(isinstance(each, (bool, int, float, list)) for each in adapters):
        reader.fail("adapters must be paths or hub ids", (*path, "adapters"), hint="adapters: [./lora]")
        adapters = []
    rounding = data.get("rounding", ROUNDINGS[0])
    if rounding not in ROUNDINGS:
        reader.fail(f"rounding is {rounding!r}", (*path, "rounding"), hint=did_you_mean(str(rounding), ROUNDINGS))
        rounding = ROUNDINGS[0]
    elif "rounding" in data and not adapters and "+" not in str(data.get("path")):
        why = "it is of a model with adapters on it"
        reader.fail(
            "rounding says nothing of this model", (*path, "rounding"), why=why, hint="name the adapters beside it"
        )
    return tuple(adapters), rounding
