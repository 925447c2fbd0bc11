"""Changes of a recipe as it is read, such as those of the command line: values under paths of keys, differences that are
allowed, and tensors that are left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergery.architecture.facts import ALLOWABLE
from mergery.errors import RecipeError, Where, did_you_mean
from mergery.recipe.document import Document, KeyPath, read_documents
from mergery.recipe.recipe import Recipe

SHORT = {(("refine",), 1): "method", (("align",), 1): "to", (("models",), 2): "path"}
"""What a word alone stands for, where a recipe may have one instead of keys: by the first key, and how deep it stands."""
_PIECE = re.compile(r'"([^"]*)"|([^."]+)')  # of a path: a key in quotes may hold dots


@dataclass(frozen=True)
class Changes:
    """What is changed of a recipe. `values` are `KEY=VALUE`: keys with dots between them, and YAML.

    A key is a place in a list where it is a number and the path has come to a list. Keys with dots in them, such as names of
    models, are found where they are; others stand in quotes.
    """

    values: Sequence[str] = ()
    allow: Sequence[str] = ()
    drop: Sequence[str] = ()

    def of_data(
        self, document: Document, known: Sequence[str], home: str, named: str = "", whose: str = ""
    ) -> Document:
        """The document with the values in their places. Raises RecipeError.

        `known` are the keys that it may have at its top, `home` is where single settings stand, `named` has the names of
        models, and `whose` is what a user writes before the paths.
        """
        if not self.values or not isinstance(document.data, Mapping):
            return document
        models = document.data.get(named)
        names = tuple(map(str, models)) if isinstance(models, Mapping) else ()
        for said in self.values:
            option = f"--set {whose}{said}"
            key, equals, text = said.partition("=")
            pieces = [quoted or plain for quoted, plain in _PIECE.findall(key)]
            if not equals or not pieces or _PIECE.sub("", key).strip("."):
                raise RecipeError("a change is KEY=VALUE", where=Where(option), hint=f"--set {home}.t=0.3")
            path = _find(pieces, document.data, names)
            if path[0] not in (*known, *document.data):
                hint = did_you_mean(str(path[0]), known)
                raise RecipeError(
                    f"unknown key {path[0]!r}",
                    where=Where(option),
                    hint=f"--set {whose}{home}.{said}" if hint.startswith("known") or len(path) == 1 else hint,
                )
            value = _read(text, option)
            document = replace(
                document,
                data=_put(document.data, path, value, option),
                changed={**document.changed, path: option},
            )
        return document

    def of_recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with what is allowed and left out besides. Raises RecipeError."""
        for word in self.allow:
            if word not in ALLOWABLE:
                where, hint = Where(f"--allow {word}"), did_you_mean(word, ALLOWABLE)
                raise RecipeError(f"no difference is called {word!r}", where=where, hint=hint)
        if not self.allow and not self.drop:
            return recipe
        allow = tuple(dict.fromkeys((*recipe.allow, *self.allow)))
        return replace(recipe, allow=allow, drop=tuple(dict.fromkeys((*recipe.drop, *self.drop))))


def _read(text: str, option: str) -> Any:
    """A value in YAML; nothing is null."""
    try:
        documents = read_documents(text, option)
    except RecipeError as error:
        hint = "quote the option for the shell, and text in YAML: --set 'KEY=\"text\"'"
        raise RecipeError(error.what, where=Where(option), why=error.why, hint=error.hint or hint) from None
    if len(documents) > 1:
        raise RecipeError("a value is one YAML document", where=Where(option), hint="leave out the ---")
    return documents[0].data if documents else None


def _find(pieces: list[str], data: Any, names: Sequence[str]) -> KeyPath:
    """The path that pieces between dots are, where keys may hold dots themselves."""
    path: list[Any] = []
    while pieces:
        taken = 1
        if isinstance(data, Mapping):
            joined = [".".join(pieces[:count]) for count in range(len(pieces), 0, -1)]
            found = next((each for each in joined if each in data or each in names), pieces[0])
            taken = found.count(".") + 1 if found != pieces[0] else 1
            path.append(found)
            data = data.get(found)
        elif isinstance(data, list) and pieces[0].isdigit():
            path.append(int(pieces[0]))
            data = data[path[-1]] if path[-1] < len(data) else None
        else:
            path.append(pieces[0])
            data = {} if data is None else None
        pieces = pieces[taken:]
    return tuple(path)


def _put(data: Any, path: KeyPath, value: Any, option: str, done: KeyPath = ()) -> Any:
    """A copy of data with a value at a path; mappings that are missing on the way are made."""
    if not path:
        return value
    key, *rest = path
    if isinstance(data, list):
        if not isinstance(key, int) or key >= len(data):
            where, hint = ".".join(map(str, done)), f"{', '.join(map(str, range(len(data))))}, or the whole list"
            raise RecipeError(f"{where} is a list, and has no place {key!r}", where=Where(option), hint=hint)
        return [*data[:key], _put(data[key], tuple(rest), value, option, (*done, key)), *data[key + 1 :]]
    if isinstance(data, str) and (done[:1], len(done)) in SHORT:
        data = {SHORT[done[:1], len(done)]: data}
    if data is not None and not isinstance(data, Mapping):
        where = ".".join(map(str, done))
        hint = f"--set '{where}={{{key}: …}}'"
        raise RecipeError(f"{where} is {data!r}, and has no key {key!r}", where=Where(option), hint=hint)
    data = data or {}
    return {**data, key: _put(data.get(key), tuple(rest), value, option, (*done, key))}
