"""Models as a mergekit file refers to them: a path, a hub id or another document, with a revision or an adapter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mergery.errors import Where, did_you_mean
from mergery.recipe.document import Document, KeyPath
from mergery.recipe.mergekit.methods import KNOWN
from mergery.recipe.reader import DocumentReader

NATIVE = {
    "allow": "say --allow on the command line, or write it into the recipe that `mergery import FILE` prints",
    "drop": "say --drop on the command line, or write it into the recipe that `mergery import FILE` prints",
    "output": "dtype, out_dtype, tokenizer_source and chat_template stand at the top of a mergekit file",
    "vocabulary": "tokenizer_source: union, or tokenizer: {source: …, tokens: …}",
    "seed": "random_seed: 1",
    "merge": "merge_method, models and parameters stand at the top of a mergekit file",
}
"""Keys of native recipes, and what a mergekit file says in their place."""


@dataclass(frozen=True)
class Reference:
    """A model as a file refers to it: a path, a hub id or the name of another document."""

    path: str
    revision: str | None = None
    adapter: str | None = None


class ReferenceReader(DocumentReader):
    """A document of a mergekit file: its problems, what its writer may want to know, and the models that it names."""

    def __init__(self, document: Document, exists: Callable[[str], bool]) -> None:
        super().__init__(document)
        self.exists = exists  # whether a path is there as it stands, '@' and '+' included
        self.notes: list[str] = []
        self.places: dict[Reference, Where] = {}

    def note(self, text: str, path: KeyPath) -> None:
        where = self.document.where(path, key=True)
        self.notes.append(f"line {where.line}: {text}" if where.line else text)

    def known(self, key: str, known: tuple[str, ...]) -> str:
        """What to try in place of an unknown key: mergekit passes over it in silence, and with it over every slip."""
        if key in KNOWN and "parameters" in known:
            return f"parameters: {{{key}: …}}"
        if key in NATIVE and "merge_method" in known:
            return NATIVE[key]
        return did_you_mean(key, known)

    def text(self, data: Any, path: KeyPath) -> str | None:
        if data is not None and not isinstance(data, str):
            self.fail(f"{path[-1]} is {data!r}", path, hint="put it in quotes")
            return None
        return data

    def reference(self, data: Any, path: KeyPath) -> Reference | None:
        """A model: `path`, `path@revision`, `path+adapter`, or the same as a mapping."""
        result, adapter, before = None, None, len(self.errors)
        if isinstance(data, dict):
            self.only(data, path, ("model", "lora", "override_architecture"))
            if data.get("override_architecture"):
                self.note("override_architecture is not needed: names and shapes are read from the files", path)
            inner, adapter = data.get("model"), data.get("lora")
            if isinstance(inner, dict):
                self.only(inner, (*path, "model"), ("path", "revision"))
                if isinstance(inner.get("path"), str):
                    result = Reference(inner["path"], self.text(inner.get("revision"), (*path, "model", "revision")))
            elif isinstance(inner, str):
                result, named = self.split(inner, path)
                adapter = adapter or named
        elif isinstance(data, str):
            result, adapter = self.split(data, path)
        if result is None or not result.path:
            if len(self.errors) == before:
                self.fail(f"{data!r} is no model", path, hint="a path, a hub id or {model: {path: …, revision: …}}")
            return None
        if adapter:
            if isinstance(adapter, dict):
                self.only(adapter, (*path, "lora"), ("path", "revision"))
                adapter = adapter.get("path")
            if not isinstance(adapter, str):
                self.fail(f"lora is {adapter!r}", (*path, "lora"), hint="a path or a hub id")
                return None
            result = replace(result, adapter=adapter)
        self.places.setdefault(result, self.document.where(path))
        return result

    def split(self, text: str, path: KeyPath) -> tuple[Reference | None, str]:
        if self.exists(text):
            return Reference(text), ""
        whole, _, adapter = text.partition("+")
        place, _, revision = whole.partition("@")
        if "@" in revision or "+" in adapter:
            self.fail(
                f"{text!r} is no model",
                path,
                why="'@' stands before a revision and '+' before an adapter, once each",
                hint="{model: {path: …, revision: …}} where the path itself holds such a sign",
            )
            return None, ""
        return Reference(place, revision or None), adapter
