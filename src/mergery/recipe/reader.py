"""Reading one document of a recipe: every problem is kept with its place, and reading goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.errors import MergeryError, RecipeError, Where, did_you_mean, raise_all
from mergery.method import Method, Setting, find
from mergery.recipe.document import Document, KeyPath
from mergery.recipe.slips import meant, model_hint
from mergery.recipe.values import ByModel, Filtered, Gradient, Value, parse_value, parsed

MOST_PROBLEMS = 100  # shown at once
OWN = ("x-", "_", ".")  # keys of the top that begin so are the writer's own: a place for anchors


class DocumentReader:
    """One document and its problems so far, each with its place."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.errors: list[MergeryError] = []

    def fail(self, what: str, path: KeyPath, *, key: bool = False, why: str = "", hint: str = "") -> None:
        """Keep a problem."""
        self.errors.append(RecipeError(what, where=self.document.where(path, key=key), why=why, hint=hint))
        if len(self.errors) >= MOST_PROBLEMS:
            raise_all(self.errors)

    def keep(self, error: MergeryError, path: KeyPath) -> None:
        """Keep an error that was raised where the place is not known."""
        self.fail(error.what, path, why=error.why, hint=error.hint)

    def only(self, data: Mapping[str, Any], path: KeyPath, known: tuple[str, ...]) -> None:
        """Refuse keys that are not known."""
        for key in data:
            if key not in known and (path or not self.holds(str(key), known)):
                self.fail(f"unknown key {key!r}", (*path, key), key=True, hint=self.known(str(key), known))

    def known(self, key: str, known: tuple[str, ...]) -> str:
        """What to try in place of a key that is not known."""
        return did_you_mean(key, known)

    def holds(self, key: str, known: tuple[str, ...]) -> bool:
        """Whether a key of the top is the writer's own: it begins as such keys do, or holds anchors that others refer to.

        One that is almost a known key is taken for a slip.
        """
        if key.startswith(OWN):
            return True
        return key in self.document.holders and not meant(key, known)


class RecipeReader(DocumentReader):
    """A document in Mergery's own words, and what several sections of it are read with."""

    def __init__(self, document: Document) -> None:
        super().__init__(document)
        self.runs: dict[str, list[str]] = {}  # the checkpoints of models that are runs

    def name(self, name: Any, path: KeyPath, models: Mapping[str, Any]) -> bool:
        """Whether it is the name of one model."""
        if isinstance(name, str) and name in self.runs:
            first, last = self.runs[name][0], self.runs[name][-1]
            self.fail(
                f"{name!r} is a run of {len(self.runs[name])} checkpoints, {first} to {last}",
                path,
                hint=f"name one: {last}",
            )
            return False
        if models and (not isinstance(name, str) or name not in models):  # without any, that has been told
            self.fail(f"unknown model {name!r}", path, hint=model_hint(name, models))
            return False
        return isinstance(name, str)

    def method(self, word: Any, path: KeyPath, given: bool) -> Method | None:
        """The method of a name."""
        if word is None:
            self.fail("no method is named", path, hint="method: linear; `mergery methods` lists them")
            return None
        try:
            return find(str(word))
        except RecipeError as error:
            self.keep(error, (*path, "method") if given else path)
            return None

    def count(self, method: Method, merged: tuple[str, ...], base: str | None, path: KeyPath) -> None:
        """Check how many models a method is given."""
        wanted = wanted_models(method.models, len(merged))
        if not wanted:
            return
        besides = " besides the base" if base is not None or method.base != "unused" else ""
        why = f"here: {', '.join(merged) or 'none'}"
        most = method.models[1]
        if most is not None and len(merged) > most:
            hint = f"models: [{', '.join(merged[:most])}]"
        elif base is not None and method.base == "unused":
            hint = f"{method.name} merges no differences from a base: leave it out, and models: [{', '.join((base, *merged))}]"
        else:
            hint = f"add one under 'models': models: [{', '.join((*merged, '<another>'))}]"
        self.fail(f"{method.name} merges {wanted}{besides}", path, why=why, hint=hint)

    def require(self, method: Method, settings: Mapping[str, Value], path: KeyPath) -> None:
        """Check that the settings without a default are there."""
        for setting in method.settings.values():
            if setting.required and setting.name not in settings:
                why = f"{setting.type_in_words()}; it has no default"
                hint = f"{setting.name}: {setting.example()}"
                self.fail(f"{method.name} needs {setting.name!r}", path, why=why, hint=hint)

    def settings(
        self,
        data: Mapping[str, Any],
        path: KeyPath,
        reserved: tuple[str, ...],
        method: Method,
        *groups: tuple[str, ...],
    ) -> tuple[dict[str, Value], dict[str, Where]]:
        """The settings of a method among other keys, and their places.

        `groups` are the models that are merged: one group, or that of each slice of a stack.
        """
        merged = tuple(dict.fromkeys(name for group in groups for name in group))
        settings: dict[str, Value] = {}
        places: dict[str, Where] = {}
        for name, item in data.items():
            if name in reserved:
                continue
            at = (*path, name)
            setting = method.settings.get(name)
            if setting is None:
                hint = method.setting_meant(str(name))
                self.fail(f"{method.name} has no setting {name!r}", at, key=True, hint=hint)
                continue
            try:
                value = parsed(parse_value, item)
                check_value(setting, value, merged)
                for group in groups:
                    check_list(setting, value, group)
            except RecipeError as error:
                what = error.what if name in error.what else f"{name}: {error.what}"
                self.fail(what, at, why=error.why, hint=error.hint)
                continue
            settings[name] = value
            places[name] = self.document.where(at)
        return settings, places


def wanted_models(limits: tuple[int, int | None], count: int) -> str:
    """How many models a method merges, such as `exactly 2 models`; empty where `count` are as many as it merges."""
    least, most = limits
    if least <= count <= (most or count):
        return ""
    number = f"exactly {least}" if least == most else f"at least {least}" if count < least else f"at most {most}"
    return f"{number} model{'' if number.endswith(' 1') else 's'}"


def check_value(setting: Setting, value: Value, merged: tuple[str, ...]) -> None:
    """Check every scalar in a value against its setting. Raises RecipeError."""
    if isinstance(value, ByModel):
        if not setting.per_model:
            hint = f"such as {setting.name}: {setting.example()}"
            raise RecipeError(f"{setting.name} is one value for the whole merge, not one for each model", hint=hint)
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


def check_list(setting: Setting, value: Value, merged: tuple[str, ...]) -> None:
    """Refuse a list of as many values as there are models where each has its own: it can be meant in two ways.

    Raises RecipeError with both, said so that neither can be taken for the other.
    """
    if not setting.per_model or len(merged) < 2:
        return
    filtered = isinstance(value, Filtered)
    for found in [case for _, case in value.cases] if isinstance(value, Filtered) else [value]:
        if not isinstance(found, Gradient) or found.named or len(found.points) != len(merged):
            continue
        each = ", ".join(f"{name}: {point}" for name, point in zip(merged, found.points, strict=True))
        key = "value" if filtered else setting.name
        one_each = f"write {setting.name}: {{{each}}}" + (" for these tensors in 'parts'" if filtered else "")
        raise RecipeError(
            f"{setting.name} is a list of {len(merged)} values, and {len(merged)} models are merged",
            why="in a recipe a list is a gradient over the layers, the same for every model",
            hint=f"{one_each} if each value is a model's, or {key}: {{gradient: {list(found.points)}}} for the gradient",
        )
