"""Reading a recipe: strictly, with file:line:column, and with every problem at once.

All that can be known without opening a model is checked here.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergery.architecture.facts import ALLOWABLE
from mergery.checkpoints import Checkpoint
from mergery.checkpoints.tokenizer.chat_templates import check_template
from mergery.dtypes import OUTPUT_DTYPES
from mergery.errors import RecipeError, did_you_mean, raise_all
from mergery.recipe.adapters import read_adapter_output, read_adapters
from mergery.recipe.aligning import read_align
from mergery.recipe.calibrating import read_calibration, read_refine
from mergery.recipe.changes import Changes
from mergery.recipe.document import Document, read_documents, read_file, read_stream
from mergery.recipe.merge import read_merge
from mergery.recipe.paths import name_paths
from mergery.recipe.protecting import read_protect
from mergery.recipe.reader import RecipeReader
from mergery.recipe.recipe import DEFAULT_SHARD, TENSORS, Merge, Output, Recipe
from mergery.recipe.repairing import KEYS, is_other_file, repaired
from mergery.recipe.runs import unfold
from mergery.recipe.shapes import read_conversions, read_rename
from mergery.recipe.slips import models_hint, other_file
from mergery.recipe.source import Source
from mergery.recipe.stages import check_references
from mergery.recipe.vocabulary import check_source, read_section

SOURCE = ("path", "revision", "task", "convert", "rename", "adapters", "rounding", "statistics", "transform")
"""What can be said of a source."""


def load_recipe(
    source: Recipe | str | Path | Mapping[str, Any], *, folder: Path | None = None, changes: Changes = Changes()
) -> Recipe:
    """Read a recipe from a file, a mapping or YAML text with a line break; mergekit files are recognised.

    `-` is standard input. `changes` are made before anything is checked. Raises RecipeError, or Problems with all of them,
    each with file:line:column.
    """
    if isinstance(source, Recipe):
        return changes.of_recipe(source)
    if isinstance(source, Mapping):
        documents, home = [Document(dict(source), "recipe")], Path()
    elif isinstance(source, str) and "\n" in source:
        documents, home = read_documents(source, "recipe"), Path()
    elif str(source) == "-":
        documents, home = read_stream(sys.stdin.buffer, "standard input"), Path()
    else:
        path = Path(source)
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir fails on names that are too long
            raise RecipeError(f"{str(path)!r} is a folder, not a recipe", hint="give the recipe's YAML file")
        documents = read_file(path)
        home = path.parent if path.is_file() else Path()  # a pipe lies nowhere
    return changes.of_recipe(_read(documents, folder or home, changes))


def _read(documents: list[Document], folder: Path, changes: Changes) -> Recipe:
    from mergery.recipe.mergekit import read, recognises

    if not documents:
        raise RecipeError("the recipe is empty", hint="models: {base: ./base, math: ./math}, merge: {method: linear}")
    if any(recognises(document.data) for document in documents):
        return read(documents, folder, changes)
    if len(documents) > 1:
        raise RecipeError("more than one YAML document", where=documents[1].where(), hint="keep one recipe in a file")
    return read_recipe(RecipeReader(changes.of_data(documents[0], KEYS, "merge", "models")), folder)


def read_recipe(reader: RecipeReader, folder: Path) -> Recipe:
    """The whole document. Raises RecipeError or Problems."""
    data = reader.document.data
    if not isinstance(data, dict):
        hint = "models: {a: ./a, b: ./b} and merge: {method: linear}"
        raise RecipeError("a recipe is a mapping with 'models' and 'merge'", where=reader.document.where(), hint=hint)
    if is_other_file(data):
        why, hint = other_file(data)
        raise RecipeError("this is no recipe", where=reader.document.where(), why=why, hint=hint)
    data = name_paths(repaired(reader, data), reader.document)
    named, reader.runs, problems = unfold(data.get("models"), folder)
    for name, error in problems.items():
        reader.keep(error, ("models", name))
    models = read_sources(reader, named)
    names = dict.fromkeys(named) if isinstance(named, dict) else {}  # that can be referred to, read or not
    merge = None
    if "merge" not in data:
        reader.fail("the recipe has no 'merge'", (), hint="merge: {method: linear}")
    else:
        merge = read_merge(reader, data["merge"], ("merge",), names)
    output = read_output(reader, data.get("output"), names)
    vocabulary = read_section(reader, data.get("vocabulary"), names)
    if vocabulary and output.tokenizer:
        hint = "keep 'vocabulary', with 'from'"
        reader.fail("output.tokenizer and vocabulary say the same thing twice", ("output", "tokenizer"), hint=hint)
    seed = data.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        reader.fail(f"seed is {seed!r}", ("seed",), why="it must be a whole number, zero or more", hint="seed: 0")
    drop = data.get("drop", [])
    if not isinstance(drop, list) or not all(isinstance(item, str) for item in drop):
        reader.fail(
            "drop must be a list of patterns of tensor names", ("drop",), hint="drop: ['*.rotary_emb.inv_freq']"
        )
    tensors = data.get("tensors")
    if tensors is not None and tensors not in TENSORS:
        why = "union copies what not all models have, intersection leaves it out"
        reader.fail(f"tensors is {tensors!r}", ("tensors",), why=why, hint=did_you_mean(str(tensors), TENSORS))
    allow = read_allowed(reader, data.get("allow", []))
    calibration = read_calibration(reader, data.get("calibration"), models)
    refine = read_refine(reader, data.get("refine"), calibration, models, merge)
    base = merge.base if merge is not None else None
    protect = read_protect(reader, data.get("protect"), names, base)
    align = read_align(reader, data.get("align"), names)
    used = (*((protect.model,) if protect else ()), *((align.to,) if align and align.to in names else ()))
    check_references(reader, models, merge, output, vocabulary, used)
    raise_all(reader.errors)
    assert merge is not None
    file, drop, notes = reader.document.file, tuple(drop), tuple(said_twice(models))
    more = {"tensors": tensors, "calibration": calibration, "refine": refine, "protect": protect, "align": align}
    return Recipe(models, merge, output, seed, drop, allow, folder, file, notes, vocabulary, **more)


def said_twice(models: Mapping[str, Source | Merge]) -> Iterator[str]:
    """Models that are the same one under two names."""
    known: dict[str, str] = {}
    for name, model in models.items():
        if isinstance(model, Source) and isinstance(model.path, str):
            bare = replace(model, path=os.path.normpath(model.path), place=None, places={})
            first = known.setdefault(repr(bare), name)
            if first != name:
                yield f"{first} and {name} are the same model: {model.path}"


def read_allowed(reader: RecipeReader, data: Any) -> tuple[str, ...]:
    """`allow`."""
    if not isinstance(data, list):
        reader.fail("allow must be a list of facts in which configs may differ", ("allow",), hint="allow: [rope_theta]")
        return ()
    for index, item in enumerate(data):
        if item not in ALLOWABLE:
            hint = did_you_mean(str(item), ALLOWABLE)
            reader.fail(f"no difference is called {item!r}", ("allow", index), hint=hint)
    return tuple(map(str, data))


def read_sources(reader: RecipeReader, data: Any) -> dict[str, Source | Merge]:
    """`models`: sources first, then stages, which may name any of them."""
    path = ("models",)
    if not isinstance(data, dict) or not data:
        why = "it maps names to paths" if data is not None else ""
        reader.fail("the recipe names no models", path, why=why, hint=models_hint(data))
        return {}
    models: dict[str, Source | Merge] = {}
    for name, item in data.items():
        at = (*path, name)
        if _is_stage(item):
            continue  # stages are read once all names are known
        if isinstance(item, Mapping) and any(hasattr(value, "shape") for value in item.values()):
            models[name] = Source(item)  # a state dict
        elif isinstance(item, dict):
            reader.only(item, at, SOURCE)
            for key in ("revision", "task", *(["transform"] if not _in_memory(item) else [])):
                if item.get(key) is not None and not isinstance(item[key], str):
                    reader.fail(f"{key} must be text", (*at, key), hint="put it in quotes")
            statistics = item.get("statistics")
            folders = statistics.values() if isinstance(statistics, dict) else [statistics]
            if statistics is not None and not all(isinstance(each, str) and each for each in folders):
                hint = "statistics: ./stats, or of a base: statistics: {math: ./on-math, code: ./on-code}"
                reader.fail("statistics must be text", (*at, "statistics"), hint=hint)
            for other in filter(None, statistics if isinstance(statistics, dict) else ()):
                reader.name(other, (*at, "statistics", other), data)
            if not item.get("path") and "adapters" not in item:
                reader.fail(f"the model {name!r} has no path", at, hint="path: ./folder, or a hub id")
            wanted, places = (
                read_conversions(reader, item["convert"], (*at, "convert")) if "convert" in item else ({}, {})
            )
            rename = read_rename(reader, item["rename"], (*at, "rename")) if "rename" in item else {}
            place = reader.document.where(at)
            adapters, rounding = read_adapters(reader, item, at)
            own = (item.get("path"), item.get("revision"), place, item.get("task"))
            measured = (item.get("statistics"), item.get("transform"))
            models[name] = Source(*own, wanted, places, rename, adapters, rounding, *measured)
        elif isinstance(item, str) and item:
            models[name] = Source(item, None, reader.document.where(at))
        elif item is None or isinstance(item, (bool, int, float, list, str)):
            why, hint = "it must be a path or a hub id", f"{name}: ./folder, or {name}: org/name"
            reader.fail(f"the model {name!r} is {item!r}", at, why=why, hint=hint)
        else:
            models[name] = Source(item, None, None)  # an object in memory
    known = dict.fromkeys(data)
    for name, item in data.items():
        if _is_stage(item):
            stage = read_merge(reader, item, (*path, name), known, inside=name)
            if stage:
                models[name] = stage
    return {name: models[name] for name in data if name in models}


def read_output(reader: RecipeReader, data: Any, models: Mapping[str, Any]) -> Output:
    """`output`."""
    path = ("output",)
    if data is None:
        return Output()
    if not isinstance(data, dict):
        reader.fail("output must be a mapping", path, hint="output: {dtype: bfloat16}")
        return Output()
    reader.only(data, path, ("dtype", "shard_size", "config", "tokenizer", "chat_template", "adapter"))
    dtype = data.get("dtype")
    if dtype is not None and str(dtype) not in OUTPUT_DTYPES:
        reader.fail(f"unknown dtype {dtype!r}", (*path, "dtype"), hint=did_you_mean(str(dtype), OUTPUT_DTYPES))
    shard = DEFAULT_SHARD
    try:
        shard = parse_size(data.get("shard_size", DEFAULT_SHARD))
    except RecipeError as error:
        reader.keep(error, (*path, "shard_size"))
    if data.get("config") is not None:
        reader.name(data["config"], (*path, "config"), models)
    tokenizer = data.get("tokenizer")
    if tokenizer is not None:
        tokenizer = check_source(reader, tokenizer, (*path, "tokenizer"), models)
    template = data.get("chat_template")
    if template is not None:
        try:
            check_template(template, models)
        except RecipeError as error:
            reader.keep(error, (*path, "chat_template"))
    adapter = None
    if data.get("adapter") not in (None, False):
        adapter = read_adapter_output(reader, data["adapter"], (*path, "adapter"), models)
    return Output(dtype, shard, data.get("config"), tokenizer, template, adapter)


def _in_memory(item: Mapping[str, Any]) -> bool:
    return isinstance(item.get("transform"), Checkpoint)


def _is_stage(item: Any) -> bool:
    return isinstance(item, dict) and ("method" in item or "stack" in item)


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(data: Any) -> int:
    """Bytes of a size such as `5GB`, `500 MiB` or 1000000."""
    match = re.fullmatch(r"\s*([\d.]+)\s*([A-Za-z]*)\s*", str(data)) if not isinstance(data, bool) else None
    if match and match[2].upper() in _UNITS:
        try:
            size = int(float(match[1]) * _UNITS[match[2].upper()])
        except (ValueError, OverflowError):
            size = 0
        if size > 0:
            return size
    raise RecipeError(f"{data!r} is no size", hint="write 5GB, 500MB, 2GiB or a number of bytes")
