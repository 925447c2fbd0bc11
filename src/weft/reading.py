"""Reading a recipe: strictly, with file:line:column, and with every problem at once.

All that can be known without opening a model is checked here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.architecture.facts import ALLOWABLE
from weft.document import Document, read_documents, read_file
from weft.dtypes import OUTPUT_DTYPES
from weft.errors import Problems, RecipeError, WeftError, Where, did_you_mean
from weft.method import Method, Setting, find
from weft.recipe import DEFAULT_SHARD, Merge, Output, Recipe, Slice, Source, Vocabulary
from weft.runs import unfold
from weft.scoping import WORDS, Cast, read_scoping
from weft.shapes import read_conversions, read_growth
from weft.values import ByModel, Value, parse_layers, parse_value, parsed
from weft.vocabulary.chat import check_template
from weft.vocabulary.section import check_source, read_section

MOST_PROBLEMS = 100  # shown at once
MOST_STAGES = 64  # one on top of the other
MOST_READS = 4096  # of stored models, counted once for each way that leads to one


def load_recipe(source: Recipe | str | Path | Mapping[str, Any], *, folder: Path | None = None) -> Recipe:
    """Read a recipe from a file, a mapping or YAML text with a line break; mergekit files are recognised.

    Raises RecipeError, or Problems with all of them, each with file:line:column.
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Mapping):
        return _read([Document(dict(source), "recipe")], folder or Path())
    if isinstance(source, str) and "\n" in source:
        return _read(read_documents(source, "recipe"), folder or Path())
    path = Path(source)
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir fails on names that are too long
        raise RecipeError(f"{str(path)!r} is a folder, not a recipe", hint="give the recipe's YAML file")
    return _read(read_file(path), folder or path.parent)


def _read(documents: list[Document], folder: Path) -> Recipe:
    from weft import mergekit

    if not documents:
        raise RecipeError("the recipe is empty")
    if any(mergekit.recognises(document.data) for document in documents):
        return mergekit.read(documents, folder)
    if len(documents) > 1:
        raise RecipeError("more than one YAML document", where=documents[1].where(), hint="keep one recipe in a file")
    return Reader(documents[0]).recipe(folder)


class Reader:
    """Reads one native document, collecting every problem before it gives up."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.errors: list[WeftError] = []
        self.runs: dict[str, list[str]] = {}  # the checkpoints of models that are runs

    def fail(self, what: str, path: tuple[Any, ...], *, key: bool = False, why: str = "", hint: str = "") -> None:
        self.errors.append(RecipeError(what, where=self.document.where(path, key=key), why=why, hint=hint))
        if len(self.errors) >= MOST_PROBLEMS:
            raise Problems(self.errors)

    def recipe(self, folder: Path) -> Recipe:
        data = self.document.data
        if not isinstance(data, dict):
            raise RecipeError("a recipe is a mapping with 'models' and 'merge'", where=self.document.where())
        self.only(data, (), ("models", "merge", "output", "vocabulary", "seed", "drop", "allow"))
        named, self.runs, problems = unfold(data.get("models"), folder)
        for name, error in problems.items():
            self.fail(error.what, ("models", name), why=error.why, hint=error.hint)
        models = self.models(named)
        names = dict.fromkeys(named) if isinstance(named, dict) else {}
        merge = None
        if "merge" not in data:
            self.fail("the recipe has no 'merge'", (), hint="merge: {method: linear}")
        else:
            merge = self.merge(data["merge"], ("merge",), names)
        output = self.output(data.get("output"), names)
        vocabulary = read_section(self, data.get("vocabulary"), names)
        if vocabulary and output.tokenizer:
            hint = "keep 'vocabulary', with 'from'"
            self.fail("output.tokenizer and vocabulary say the same thing twice", ("output", "tokenizer"), hint=hint)
        seed = data.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            self.fail(f"seed is {seed!r}", ("seed",), why="it must be a whole number, zero or more")
        drop = data.get("drop", [])
        if not isinstance(drop, list) or not all(isinstance(item, str) for item in drop):
            self.fail(
                "drop must be a list of patterns of tensor names", ("drop",), hint="drop: ['*.rotary_emb.inv_freq']"
            )
        allow = self.allow(data.get("allow", []))
        self.references(models, merge, output, vocabulary)
        if self.errors:
            raise self.errors[0] if len(self.errors) == 1 else Problems(self.errors)
        assert merge is not None
        return Recipe(
            models, merge, output, seed, tuple(drop), allow, folder, self.document.file, vocabulary=vocabulary
        )

    def allow(self, data: Any) -> tuple[str, ...]:
        if not isinstance(data, list):
            self.fail(
                "allow must be a list of facts in which configs may differ", ("allow",), hint="allow: [rope_theta]"
            )
            return ()
        for index, item in enumerate(data):
            if item not in ALLOWABLE:
                hint = did_you_mean(str(item), ALLOWABLE)
                self.fail(f"no difference is called {item!r}", ("allow", index), hint=hint)
        return tuple(map(str, data))

    def only(self, data: Mapping[str, Any], path: tuple[Any, ...], known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                self.fail(f"unknown key {key!r}", (*path, key), key=True, hint=did_you_mean(str(key), known))

    def models(self, data: Any) -> dict[str, Source | Merge]:
        path = ("models",)
        if not isinstance(data, dict) or not data:
            why = "it maps names to paths" if data is not None else ""
            self.fail("the recipe names no models", path, why=why, hint="models: {base: ./base, math: ./math}")
            return {}
        models: dict[str, Source | Merge] = {}
        for name, item in data.items():
            at = (*path, name)
            if _is_stage(item):
                continue  # stages are read once all names are known
            if isinstance(item, Mapping) and any(hasattr(value, "shape") for value in item.values()):
                models[name] = Source(item)  # a state dict
            elif isinstance(item, dict):
                self.only(item, at, ("path", "revision", "task", "convert"))
                for key in ("revision", "task"):
                    if item.get(key) is not None and not isinstance(item[key], str):
                        self.fail(f"{key} must be text", (*at, key), hint="put it in quotes")
                if not item.get("path"):
                    self.fail(f"the model {name!r} has no path", at, hint="path: ./folder, or a hub id")
                wanted, places = (
                    read_conversions(self, item["convert"], (*at, "convert")) if "convert" in item else ({}, {})
                )
                place = self.document.where(at)
                models[name] = Source(item.get("path"), item.get("revision"), place, item.get("task"), wanted, places)
            elif isinstance(item, str) and item:
                models[name] = Source(item, None, self.document.where(at))
            elif item is None or isinstance(item, (bool, int, float, list, str)):
                self.fail(f"the model {name!r} is {item!r}", at, why="it must be a path or a hub id")
            else:
                models[name] = Source(item, None, None)  # an object in memory
        known = dict.fromkeys(data)
        for name, item in data.items():
            if _is_stage(item):
                stage = self.merge(item, (*path, name), known, inside=name)
                if stage:
                    models[name] = stage
        return {name: models[name] for name in data if name in models}

    def merge(
        self, data: Any, path: tuple[Any, ...], models: Mapping[str, Any], inside: str | None = None
    ) -> Merge | None:
        if not isinstance(data, dict):
            self.fail("merge must be a mapping with a method", path, hint="merge: {method: linear}")
            return None
        word = data.get("method", "passthrough" if "stack" in data else None)
        method = self.method(word, path, "method" in data)
        if method is None:
            return None
        base = data.get("base")
        if base is not None:
            self.name(base, (*path, "base"), models)
        elif method.base == "required" and "stack" not in data:
            self.fail(
                f"{method.name} needs a base", path, why="it merges differences from it", hint="base: <a model's name>"
            )
        merged = self.merged(data, path, models, base, inside)
        if "dtype" in data and str(data["dtype"]) not in OUTPUT_DTYPES:
            self.fail(
                f"unknown dtype {data['dtype']!r}",
                (*path, "dtype"),
                hint=did_you_mean(str(data["dtype"]), OUTPUT_DTYPES),
            )
        if "dtype" in data and inside is None:
            self.fail("the dtype of the result stands under 'output'", (*path, "dtype"), key=True)
        reserved = ("method", "base", "models", "stack", "dtype", *WORDS)
        settings, places = self.settings(data, path, reserved, method, merged)
        growth = read_growth(self, data["stack"], (*path, "stack"), method, models) if "stack" in data else None
        stack = self.stack(data["stack"], path, method, models) if "stack" in data and not growth else ()
        if "stack" not in data:
            self.count(method, merged, path)
            for setting in method.settings.values():
                if setting.required and setting.name not in settings:
                    self.fail(
                        f"{method.name} needs {setting.name!r}", path, why=f"{setting.describe()}; it has no default"
                    )
        slices = tuple((part.merged, part.base or base) for part in stack)
        scoping = read_scoping(self, data, path, method, Cast(merged, base, slices))
        place = self.document.where(path)
        return Merge(method.name, merged, base, settings, stack, data.get("dtype"), place, places, growth, **scoping)

    def method(self, word: Any, path: tuple[Any, ...], given: bool) -> Method | None:
        if word is None:
            self.fail("no method is named", path, hint="method: linear")
            return None
        try:
            return find(str(word))
        except RecipeError as error:
            self.fail(error.what, (*path, "method") if given else path, hint=error.hint)
            return None

    def merged(
        self, data: Mapping[str, Any], path: tuple[Any, ...], models: Mapping[str, Any], base: Any, inside: str | None
    ) -> tuple[str, ...]:
        if "stack" in data:
            if "models" in data:
                self.fail("a stack names its models slice by slice", (*path, "models"), key=True)
            return ()
        if "models" not in data:
            if inside is not None:
                self.fail(f"the stage {inside!r} does not name its models", path, hint="models: [a, b]")
            return tuple(name for name in models if name != base)
        names = data["models"]
        if not isinstance(names, list) or not names:
            self.fail("models must be a list of names", (*path, "models"), hint="models: [math, code]")
            return ()
        result: list[str] = []
        listed = [
            (each, index)
            for index, name in enumerate(names)
            for each in (self.runs.get(name, [name]) if isinstance(name, str) else [name])
        ]
        for name, index in listed:
            at = (*path, "models", index)
            if not self.name(name, at, models):
                continue
            if name == base:
                self.fail(f"{name!r} is the base and cannot be merged into itself", at, hint="leave it out of models")
            elif name in result:
                self.fail(f"{name!r} stands twice", at, hint="give it twice the weight instead")
            else:
                result.append(name)
        return tuple(result)

    def name(self, name: Any, path: tuple[Any, ...], models: Mapping[str, Any]) -> bool:
        if isinstance(name, str) and name in self.runs:
            first, last = self.runs[name][0], self.runs[name][-1]
            self.fail(
                f"{name!r} is a run of {len(self.runs[name])} checkpoints, {first} to {last}",
                path,
                hint=f"name one: {last}",
            )
            return False
        if not isinstance(name, str) or name not in models:
            self.fail(f"unknown model {name!r}", path, hint=did_you_mean(str(name), models))
            return False
        return True

    def count(self, method: Method, merged: tuple[str, ...], path: tuple[Any, ...]) -> None:
        least, most = method.models
        if not least <= len(merged) <= (most or len(merged)):
            wanted = (
                f"exactly {least}"
                if least == most
                else f"at least {least}"
                if len(merged) < least
                else f"at most {most}"
            )
            besides = " besides the base" if method.base != "unused" else ""
            self.fail(
                f"{method.name} merges {wanted} model{'s' if wanted[-1] != '1' else ''}{besides}",
                path,
                why=f"here: {', '.join(merged) or 'none'}",
            )

    def settings(
        self,
        data: Mapping[str, Any],
        path: tuple[Any, ...],
        reserved: tuple[str, ...],
        method: Method,
        merged: tuple[str, ...],
    ) -> tuple[dict[str, Value], dict[str, Where]]:
        settings: dict[str, Value] = {}
        places: dict[str, Where] = {}
        for name, item in data.items():
            if name in reserved:
                continue
            at = (*path, name)
            setting = method.settings.get(name)
            if setting is None:
                known = (*method.settings, *reserved)
                self.fail(f"{method.name} has no setting {name!r}", at, key=True, hint=did_you_mean(str(name), known))
                continue
            try:
                value = parsed(parse_value, item)
                check_value(setting, value, merged)
            except RecipeError as error:
                what = error.what if name in error.what else f"{name}: {error.what}"
                self.fail(what, at, why=error.why, hint=error.hint)
                continue
            settings[name] = value
            places[name] = self.document.where(at)
        return settings, places

    def stack(self, data: Any, path: tuple[Any, ...], method: Method, models: Mapping[str, Any]) -> tuple[Slice, ...]:
        path = (*path, "stack")
        if not isinstance(data, list) or not data:
            self.fail(
                "stack must be a list of slices, or a rule",
                path,
                hint="stack: [{models: {a: 0-15}}, {models: {b: 8-31}}], or stack: {upscale: a, drop: 8}",
            )
            return ()
        slices: list[Slice] = []
        for index, item in enumerate(data):
            at = (*path, index)
            if not isinstance(item, dict) or not isinstance(item.get("models"), dict) or not item["models"]:
                self.fail("a slice names its models with their layers", at, hint="{models: {a: 0-15}}")
                continue
            ranges: list[tuple[str, tuple[int, int]]] = []
            for name, layers in item["models"].items():
                if not self.name(name, (*at, "models", name), models):
                    continue
                try:
                    ranges.append((name, parsed(parse_layers, layers)))
                except RecipeError as error:
                    self.fail(error.what, (*at, "models", name), hint=error.hint)
            lengths = {high - low + 1 for _, (low, high) in ranges}
            if len(lengths) > 1:
                self.fail("the ranges of a slice differ in length", at, why=f"{sorted(lengths)} layers")
            base = item.get("base")
            if base is not None and self.name(base, (*at, "base"), models) and base not in item["models"]:
                self.fail(f"the slice gives no layers of its base {base!r}", at, hint=f"models: {{{base}: 0-15, …}}")
            if base is None and method.base == "required":
                self.fail(f"{method.name} needs a base in each slice", at, hint="base: <a model's name>")
            merged = tuple(name for name, _ in ranges if name != base)
            self.count(method, merged, at)
            settings, _ = self.settings(item, at, ("models", "base"), method, merged)
            if ranges:
                slices.append(Slice(tuple(ranges), base, settings, self.document.where(at)))
        return tuple(slices)

    def output(self, data: Any, models: Mapping[str, Any]) -> Output:
        path = ("output",)
        if data is None:
            return Output()
        if not isinstance(data, dict):
            self.fail("output must be a mapping", path, hint="output: {dtype: bfloat16}")
            return Output()
        self.only(data, path, ("dtype", "shard_size", "config", "tokenizer", "chat_template"))
        dtype = data.get("dtype")
        if dtype is not None and str(dtype) not in OUTPUT_DTYPES:
            self.fail(f"unknown dtype {dtype!r}", (*path, "dtype"), hint=did_you_mean(str(dtype), OUTPUT_DTYPES))
        shard = DEFAULT_SHARD
        try:
            shard = parse_size(data.get("shard_size", DEFAULT_SHARD))
        except RecipeError as error:
            self.fail(error.what, (*path, "shard_size"), why=error.why, hint=error.hint)
        if data.get("config") is not None:
            self.name(data["config"], (*path, "config"), models)
        tokenizer = data.get("tokenizer")
        if tokenizer is not None:
            tokenizer = check_source(self, tokenizer, (*path, "tokenizer"), models)
        template = data.get("chat_template")
        if template is not None:
            try:
                check_template(template, models)
            except RecipeError as error:
                self.fail(error.what, (*path, "chat_template"), why=error.why, hint=error.hint)
        return Output(dtype, shard, data.get("config"), tokenizer, template)

    def references(
        self,
        models: Mapping[str, Source | Merge],
        merge: Merge | None,
        output: Output,
        vocabulary: Vocabulary | None,
    ) -> None:
        """Stages must not go in circles, and each named model must be used."""

        def visit(name: str, trail: tuple[str, ...]) -> None:
            if name in trail:
                self.fail(f"the stage {name!r} needs itself", ("models", name), why=" -> ".join((*trail, name)))
                return
            if len(trail) > MOST_STAGES:
                raise _too_deep(models[trail[0]])
            model = None if name in used else models.get(name)
            used.add(name)
            if isinstance(model, Merge):
                for inner in model.names():
                    visit(inner, (*trail, name))

        used: set[str] = set()
        if merge is None or self.errors:
            return
        others = [output.config, output.tokenizer, output.chat_template, *(vocabulary.models() if vocabulary else ())]
        for name in (*merge.names(), *(name for name in others if name in models)):
            visit(name, ())
        if not self.errors:
            self.errors += too_many_stages(models, merge)
        for name in models:
            if name not in used:
                self.fail(f"the model {name!r} is not used", ("models", name), key=True, hint="add it to merge.models")


def too_many_stages(models: Mapping[str, Source | Merge], merge: Merge) -> list[WeftError]:
    """The error, if any, of stages whose work would multiply: each is made again for every stage that takes it."""
    reads: dict[str, int] = {}

    def count(name: str, depth: int) -> int:
        if depth > MOST_STAGES:
            raise _too_deep(models[name])
        model = models.get(name)
        if name not in reads:
            reads[name] = sum(count(inner, depth + 1) for inner in model.names()) if isinstance(model, Merge) else 1
        return reads[name]

    total = sum(count(name, 0) for name in merge.names())
    if total <= MOST_READS:
        return []
    why = f"each stage is made again for every stage that takes it: models would be read {total:,} times"
    return [RecipeError("too many stages", where=merge.place, why=why, hint="merge some of them into a folder first")]


def _too_deep(model: Source | Merge) -> RecipeError:
    return RecipeError("stages are nested too deeply", where=model.place, why=f"over {MOST_STAGES} levels")


def _is_stage(item: Any) -> bool:
    return isinstance(item, dict) and ("method" in item or "stack" in item)


def check_value(setting: Setting, value: Value, merged: tuple[str, ...]) -> None:
    """Check every scalar in a value against its setting. Raises RecipeError."""
    if isinstance(value, ByModel):
        if not setting.per_model:
            raise RecipeError(f"{setting.name} is one value for the whole merge, not one for each model")
        for name, _ in value.values:
            if merged and name not in merged:
                raise RecipeError(
                    f"{setting.name} names {name!r}, which is not merged", hint=did_you_mean(name, merged)
                )
    for scalar in value.scalars():
        setting.check(scalar)
        if setting.kind == "task" and scalar is not None and merged and scalar not in merged:
            raise RecipeError(
                f"{setting.name} names {scalar!r}, which is not merged", hint=did_you_mean(str(scalar), merged)
            )


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
