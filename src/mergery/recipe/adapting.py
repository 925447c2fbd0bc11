"""What `mergery adapter` does, as recipes: an adapter baked into its model, several made one, one taken out of a fine-tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergery.errors import RecipeError
from mergery.method import find
from mergery.recipe.reading import load_recipe
from mergery.recipe.recipe import Recipe

BASE = "base"


def bake_recipe(base: str, adapters: Sequence[str], *, rounding: str = "once", dtype: str | None = None) -> Recipe:
    """The recipe that writes the model which adapters make of their base. Raises RecipeError."""
    source: dict[str, Any] = {"path": base, "adapters": list(adapters)}
    source |= {"rounding": rounding} if rounding != "once" else {}
    output = {"output": {"dtype": dtype}} if dtype else {}
    return load_recipe({"models": {"model": source}, "merge": {"method": "passthrough"}, **output})


def combine_recipe(
    adapters: Sequence[str],
    *,
    base: str | None = None,
    method: str = "task_arithmetic",
    weights: Sequence[float] = (),
    settings: Mapping[str, Any] | None = None,
    output: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    seed: int = 0,
) -> Recipe:
    """The recipe that makes one adapter of several; without `base`, of what they add alone. Raises RecipeError."""
    if not adapters:
        raise RecipeError(
            "no adapters are named", hint="mergery adapter merge ./math-lora ./code-lora --out ./both-lora"
        )
    if weights and len(weights) != len(adapters):
        raise RecipeError(
            f"{len(weights)} weights for {len(adapters)} adapters", hint="give one for each, in their order"
        )
    names = named(adapters)
    models: dict[str, Any] = {
        name: f"{base}+{path}" if base else {"adapters": [path]} for name, path in zip(names, adapters, strict=True)
    }
    merge: dict[str, Any] = {"method": method, "models": names, **(settings or {})}
    if find(method).base != "unused":
        models[BASE] = base or {"adapters": []}
        merge["base"] = BASE
    if weights:
        merge["weight"] = dict(zip(names, weights, strict=True))
    out = {"adapter": dict(output or {}) or True} | ({"dtype": dtype} if dtype else {})
    return load_recipe({"models": models, "merge": merge, "output": out, "seed": seed})


def named(paths: Sequence[str]) -> list[str]:
    """Names for models, none twice: the last parts of their paths, with a number where two are alike."""
    names: list[str] = []
    for path in paths:
        stem = Path(path).stem if Path(path).suffix == ".safetensors" else Path(path).name
        stem = stem if stem not in ("", "adapter_model", BASE) else Path(path).parent.name or "adapter"
        number, name = 2, stem
        while name in names or name == BASE:
            number, name = number + 1, f"{stem}-{number}"
        names.append(name)
    return names


def extract_recipe(
    model: str,
    base: str,
    *,
    rank: int | None = None,
    ranks: Mapping[str, int] | None = None,
    embeddings: str = "whole",
    dtype: str | None = None,
) -> Recipe:
    """The recipe that makes an adapter of what a fine-tune has learnt on its base. Raises RecipeError."""
    adapter: dict[str, Any] = {BASE: BASE, "embeddings": embeddings}
    adapter |= {"rank": rank} if rank is not None else {}
    adapter |= {"ranks": dict(ranks)} if ranks else {}
    return load_recipe(
        {
            "models": {BASE: base, "finetune": model},
            "merge": {"method": "passthrough", "models": ["finetune"]},
            "output": {"adapter": adapter, **({"dtype": dtype} if dtype else {})},
        }
    )
