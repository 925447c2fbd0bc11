"""Adapters in a recipe: those that are put on a source, and one as the output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.checkpoints.adapted import ROUNDINGS
from mergery.errors import did_you_mean
from mergery.recipe.document import KeyPath
from mergery.recipe.reader import RecipeReader
from mergery.recipe.recipe import AdapterOutput

SPACES = ("core", "shared", "full")
EMBEDDINGS = ("whole", "lora", "base")


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


def read_adapter_output(
    reader: RecipeReader, data: Any, path: KeyPath, models: Mapping[str, Any]
) -> AdapterOutput | None:
    """The `adapter` of `output`."""
    if data is True:
        return AdapterOutput()
    if not isinstance(data, dict):
        reader.fail("adapter must be a mapping", path, hint="adapter: {rank: 16}, or adapter: true for all ranks")
        return None
    reader.only(data, path, ("rank", "ranks", "space", "calibrate", "embeddings", "base"))
    ranks = data.get("ranks", {})
    ranks = ranks if isinstance(ranks, dict) else {"": ranks}
    for rank, at in ((data.get("rank"), "rank"), *((each, "ranks") for each in ranks.values())):
        if rank is not None and (type(rank) is not int or rank < 1):
            reader.fail(f"{at} is {rank!r}", (*path, at), why="it must be a whole number above zero", hint=f"{at}: 16")
            return None
    for key, known in (("space", SPACES), ("calibrate", ("pico",)), ("embeddings", EMBEDDINGS)):
        if data.get(key) is not None and data[key] not in known:
            reader.fail(f"{key} is {data[key]!r}", (*path, key), hint=did_you_mean(str(data[key]), known))
            return None
    if data.get("base") is not None and not reader.name(data["base"], (*path, "base"), models):
        return None
    pico, embeddings = data.get("calibrate") == "pico", data.get("embeddings") or EMBEDDINGS[0]
    return AdapterOutput(data.get("rank"), dict(ranks), data.get("space"), pico, embeddings, data.get("base"))
