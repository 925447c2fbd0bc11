"""What a mergekit file says of tokens: `tokenizer_source`, `tokenizer` and `chat_template`.

mergekit cuts embeddings to the tokenizer's length, fills rows that no model has with zeros, and takes base_model's row
where it is merged and has the token. A recipe that says so gives the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mergery.checkpoints.tokenizer.chat_templates import named_template, named_templates
from mergery.errors import Where, did_you_mean
from mergery.recipe.document import KeyPath
from mergery.recipe.mergekit.references import Reference, ReferenceReader
from mergery.recipe.recipe import TokenRow, Vocabulary

NAMED = ("alpaca", "chatml", "exaone", "llama3", "mistral")  # the templates that mergekit 0.1.5 has
SHORTEST = 20  # characters of Jinja, for mergekit


@dataclass(frozen=True)
class Row:
    """The row of one token: a model's own, another token's or id's, or zeros where no model is named."""

    model: Reference | None
    token: str | None
    id: int | None
    force: bool
    place: Where


@dataclass(frozen=True)
class Tokens:
    """The tokenizer of one document. `source` is `base`, `union` or a model."""

    source: Reference | str
    place: Where
    rows: Mapping[str, Row] = field(default_factory=dict)
    bare: tuple[str, ...] = ()  # tokens without a row of their own
    pad: int | None = None

    def references(self) -> dict[Reference, Where]:
        """All models that it names, and where."""
        named = {} if isinstance(self.source, str) else {self.source: self.place}
        return {row.model: row.place for row in self.rows.values() if row.model} | named

    def extended(self, more: Tokens) -> Tokens:
        """With the single tokens that another document adds, whose padding counts."""
        bare = tuple(dict.fromkeys((*self.bare, *more.bare)))
        return Tokens(self.source, more.place, {**self.rows, **more.rows}, bare, more.pad)

    def vocabulary(
        self, name: Callable[[Reference], str], own: str | None, merged: tuple[str, ...], base: str | None
    ) -> Vocabulary:
        """The section of the recipe. `own` is the document's base; `base` that of the recipe's merge, where it has one."""
        source = self.source if isinstance(self.source, str) else name(self.source)
        if source == "base" and own:
            source = own
        rows = {
            token: TokenRow(name(row.model) if row.model else None, row.token, row.id, row.force, row.place)
            for token, row in self.rows.items()
        }
        fill = own if own != base and own in merged else None
        add = dict.fromkeys((*self.rows, *self.bare), False)
        return Vocabulary(source, fill, rows, add, self.pad, "cut", "zero", place=self.place)


def read_tokens(reader: ReferenceReader, data: Mapping[str, Any]) -> Tokens | None:
    """The tokenizer that a document asks for; None where it says nothing."""
    legacy, block = data.get("tokenizer_source"), data.get("tokenizer")
    if legacy and block is not None:
        hint = "keep one"
        reader.fail("tokenizer and tokenizer_source say the same thing twice", ("tokenizer_source",), hint=hint)
    if block is None:
        source = _source(reader, legacy, ("tokenizer_source",)) if legacy else None
        return Tokens(source, reader.document.where(("tokenizer_source",))) if source else None
    path: KeyPath = ("tokenizer",)
    if not isinstance(block, dict):
        reader.fail("tokenizer must be a mapping", path, hint="tokenizer: {source: base}")
        return None
    reader.only(block, path, ("source", "tokens", "pad_to_multiple_of"))
    source = _source(reader, block.get("source") or "union", (*path, "source"))
    pad = block.get("pad_to_multiple_of")
    if pad is not None and not (type(pad) is int and 0 < pad <= 1 << 20):
        at, why = (*path, "pad_to_multiple_of"), "it must be a whole number from 1"
        reader.fail(f"pad_to_multiple_of is {pad!r}", at, why=why, hint="pad_to_multiple_of: 64")
        pad = None
    tokens = block.get("tokens") or {}
    if not isinstance(tokens, dict):
        hint = 'tokens: {"<tool>": {source: ./a}}'
        reader.fail("tokens must map tokens to their rows", (*path, "tokens"), hint=hint)
        tokens = {}
    rows: dict[str, Row] = {}
    bare: list[str] = []
    for token, item in tokens.items():
        row = _row(reader, item, (*path, "tokens", token))
        if row is not None:
            rows[str(token)] = row
        elif isinstance(item, dict) and not item.get("source") and not item.get("force"):
            bare.append(str(token))
    return Tokens(source, reader.document.where(path), rows, tuple(bare), pad) if source else None


def _source(reader: ReferenceReader, data: Any, path: KeyPath) -> Reference | str | None:
    return data if data in ("base", "union") else reader.reference(data, path)


def _row(reader: ReferenceReader, data: Any, path: KeyPath) -> Row | None:
    hint = "{source: <model>}, or {source: {kind: model_token, model: …, token: …}}"
    if not isinstance(data, dict):
        reader.fail(f"{data!r} says no row", path, hint=hint)
        return None
    reader.only(data, path, ("source", "force"))
    force, source = data.get("force", False), data.get("source")
    if type(force) is not bool:
        reader.fail(f"force is {force!r}", (*path, "force"), why="it must be true or false", hint="force: true")
        return None
    if source is None:
        if force:
            why = "mergekit stops there"
            reader.fail("force needs a source", (*path, "force"), why=why, hint=hint)
        return None
    at, place = (*path, "source"), reader.document.where(path)
    kind = source.get("kind") if isinstance(source, dict) else None
    if kind is None:
        model = reader.reference(source, at)
        return Row(model, None, None, force, place) if model else None
    if kind == "zero":
        reader.only(source, at, ("kind",))
        return Row(None, None, None, force, place)
    if kind != "model_token":
        reader.fail(f"unknown kind {kind!r}", (*at, "kind"), hint=did_you_mean(str(kind), ("model_token", "zero")))
        return None
    reader.only(source, at, ("kind", "model", "token", "token_id"))
    token, index = source.get("token"), source.get("token_id")
    if (token is None) == (index is None):
        hint = "keep one of them" if token is not None else 'token: "<tool>"'
        reader.fail("a model_token has one of 'token' and 'token_id'", at, hint=hint)
        return None
    if (token is not None and not isinstance(token, str)) or (index is not None and type(index) is not int):
        reader.fail(f"{token if index is None else index!r} is no token", at, hint="put tokens in quotes")
        return None
    model = reader.reference(source.get("model"), (*at, "model"))
    return Row(model, token, index, force, place) if model else None


def read_template(reader: ReferenceReader, data: Any) -> str | None:
    """The chat template that a document asks for: `auto`, a name or Jinja."""
    path = ("chat_template",)
    if not data:
        return None
    if data == "auto" or data in NAMED or (isinstance(data, str) and "{" in data and len(data) >= SHORTEST):
        return data
    names = ("auto", *NAMED)
    why = "it is no named template, and no Jinja of 20 characters or more"
    reader.fail(f"chat_template is {data!r}", path, why=why, hint=did_you_mean(str(data), names))
    return None


def template_word(word: str | None, models: Mapping[str, Any]) -> str | None:
    """The template as a recipe says it; one whose name is also a model's is written out."""
    return named_template(word) if word and word in models and word in named_templates() else word
