"""The section `vocabulary` of a recipe, read strictly.

vocabulary:
  from: union                              # base, union, or a model
  tokens:
    "<|im_start|>": {from: chat}           # that model's row, for models that lack the token
    "<tool>": {like: "<|im_start|>", of: chat}
    "<x>": {id: 5, of: base}
    "<pad>": zero
    "<|eot|>": {from: chat, force: true}   # for all models
  add: ["<new>", {token: "new", special: false}]
  pad_to_multiple_of: 64
  padding: keep                            # or cut
  unknown: mean                            # zero, random, subword, omp, {omp: 64}
  base: chat                               # whose rows fill gaps; default: the merge's base
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.recipe.document import KeyPath
from mergery.recipe.reader import RecipeReader
from mergery.recipe.recipe import TokenRow, Vocabulary

KEYS = ("from", "base", "tokens", "add", "pad_to_multiple_of", "padding", "unknown")
WORDS = ("base", "union")
PADDING = ("keep", "cut")
UNKNOWN = ("mean", "zero", "random", "subword", "omp")
LARGEST_MULTIPLE = 1 << 20
MOST_NEIGHBOURS = 4096


def check_source(reader: RecipeReader, word: Any, path: KeyPath, models: Mapping[str, Any]) -> str:
    """`base`, `union` or a model's name."""
    if word == "union" and word in models:
        reader.fail("'union' is a model and the word for all models' tokens", path, hint="give the model another name")
    if isinstance(word, str) and word in WORDS:
        return word
    return word if reader.name(word, path, {**models, **dict.fromkeys(WORDS)}) else "base"


def read_section(reader: RecipeReader, data: Any, models: Mapping[str, Any]) -> Vocabulary | None:
    """The section, with every problem told."""
    path: KeyPath = ("vocabulary",)
    if data is None:
        return None
    if not isinstance(data, dict):
        reader.fail("vocabulary must be a mapping", path, hint="vocabulary: {from: union}")
        return None
    reader.only(data, path, KEYS)
    source = check_source(reader, data.get("from", "base"), (*path, "from"), models)
    base = data.get("base")
    if base is not None and not reader.name(base, (*path, "base"), models):
        base = None
    add = _added(reader, data.get("add"), (*path, "add"))
    tokens = _tokens(reader, data.get("tokens"), (*path, "tokens"), models)
    multiple = data.get("pad_to_multiple_of")
    if multiple is not None and not (type(multiple) is int and 0 < multiple <= LARGEST_MULTIPLE):
        why = f"it must be a whole number from 1 to {LARGEST_MULTIPLE:,}"
        at, hint = (*path, "pad_to_multiple_of"), "pad_to_multiple_of: 64"
        reader.fail(f"pad_to_multiple_of is {multiple!r}", at, why=why, hint=hint)
        multiple = None
    padding = _choice(reader, data.get("padding", "keep"), (*path, "padding"), PADDING)
    unknown, neighbours = _unknown(reader, data.get("unknown", "mean"), (*path, "unknown"))
    places = {key: reader.document.where((*path, key)) for key in data}
    return Vocabulary(
        source, base, tokens, add, multiple, padding, unknown, neighbours, reader.document.where(path), places
    )


def _choice(reader: RecipeReader, word: Any, path: KeyPath, known: tuple[str, ...]) -> str:
    if word in known:
        return word
    reader.fail(f"{path[-1]} is {word!r}", path, hint=f"one of {', '.join(known)}")
    return known[0]


def _unknown(reader: RecipeReader, data: Any, path: KeyPath) -> tuple[str, int]:
    if isinstance(data, dict):
        reader.only(data, path, ("omp",))
        count = data.get("omp")
        if "omp" in data and not (type(count) is int and 0 < count <= MOST_NEIGHBOURS):
            why = f"it is the number of tokens of which a row is made: a whole number from 1 to {MOST_NEIGHBOURS:,}"
            reader.fail(f"omp is {count!r}", (*path, "omp"), why=why, hint="omp: 64")
            count = None
        return "omp", count or Vocabulary.neighbours
    return _choice(reader, data, path, UNKNOWN), Vocabulary.neighbours


def _added(reader: RecipeReader, data: Any, path: KeyPath) -> dict[str, bool]:
    result: dict[str, bool] = {}
    if data is None:
        return result
    if not isinstance(data, list):
        reader.fail("add must be a list of tokens", path, hint='add: ["<tool>"]')
        return result
    for index, item in enumerate(data):
        at = (*path, index)
        token, special = item, True
        if isinstance(item, dict):
            reader.only(item, at, ("token", "special"))
            token, special = item.get("token"), item.get("special", True)
        if not isinstance(token, str) or not token:
            reader.fail(f"{item!r} is no token", at, hint="put it in quotes")
        elif type(special) is not bool:
            reader.fail(
                f"special is {special!r}", (*at, "special"), why="it must be true or false", hint="special: true"
            )
        elif token in result:
            reader.fail(f"the token {token!r} stands twice", at, hint="keep one of them")
        else:
            result[token] = special
    return result


def _tokens(reader: RecipeReader, data: Any, path: KeyPath, models: Mapping[str, Any]) -> dict[str, TokenRow]:
    result: dict[str, TokenRow] = {}
    if data is None:
        return result
    if not isinstance(data, dict):
        reader.fail("tokens must map tokens to their rows", path, hint='tokens: {"<tool>": {from: chat}}')
        return result
    for token, item in data.items():
        row = _row(reader, item, (*path, token), models)
        if row is not None and token:
            result[str(token)] = row
    return result


def _row(reader: RecipeReader, data: Any, path: KeyPath, models: Mapping[str, Any]) -> TokenRow | None:
    place = reader.document.where(path)
    hint = "zero, {from: <model>}, {like: <token>, of: <model>} or {id: <number>, of: <model>}"
    if data == "zero":
        return TokenRow(place=place)
    if not isinstance(data, dict):
        reader.fail(f"{data!r} says no row", path, hint=hint)
        return None
    reader.only(data, path, ("from", "like", "id", "of", "zero", "force"))
    force = data.get("force", False)
    if type(force) is not bool:
        reader.fail(f"force is {force!r}", (*path, "force"), why="it must be true or false", hint="force: true")
        return None
    given = [key for key in ("from", "like", "id", "zero") if key in data]
    if len(given) != 1:
        reader.fail(
            "a row has one of 'from', 'like', 'id' and 'zero'",
            path,
            why=f"here: {', '.join(given) or 'none'}",
            hint=hint,
        )
        return None
    kind = given[0]
    if kind == "zero":
        if data["zero"] is not True or "of" in data:
            reader.fail("zeros are of no model", path, hint="zero, or {zero: true, force: true}")
            return None
        return TokenRow(force=force, place=place)
    if kind == "from":
        if "of" in data:
            reader.fail("'of' belongs to 'like' and 'id'", (*path, "of"), key=True, hint="from: <model>")
            return None
        known = reader.name(data["from"], (*path, "from"), models)
        return TokenRow(data["from"], None, None, force, place) if known else None
    if "of" not in data:
        reader.fail(f"'{kind}' needs 'of'", path, hint=f"{{{kind}: {data[kind]!r}, of: <model>}}")
        return None
    if not reader.name(data["of"], (*path, "of"), models):
        return None
    if kind == "like":
        if not isinstance(data["like"], str):
            reader.fail(f"{data['like']!r} is no token", (*path, "like"), hint="put it in quotes")
            return None
        return TokenRow(data["of"], data["like"], None, force, place)
    if type(data["id"]) is not int or data["id"] < 0:
        reader.fail(f"id is {data['id']!r}", (*path, "id"), why="it must be a whole number, zero or more", hint="id: 5")
        return None
    return TokenRow(data["of"], None, data["id"], force, place)
