"""YAML with line and column: what the user wrote, and where each key and value stands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mergery.errors import RecipeError, Where

KeyPath = tuple[Any, ...]
"""The keys and indices that lead to a value."""

LARGEST = 5_000_000  # bytes of one recipe
MOST_NODES = 50_000  # values after aliases are expanded: a guard against documents that explode
DEEPEST = 64
LONGEST = 10_000  # characters of one key or value
LARGEST_INT = 1 << 64


@dataclass(frozen=True)
class Document:
    """One parsed YAML document: plain data, and the place of every key and value by its path."""

    data: Any
    file: str
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)

    def where(self, path: KeyPath = (), *, key: bool = False) -> Where:
        """The place of a value (or of its key); of the nearest enclosing one where it has none itself."""
        path = tuple(path)
        if key and path in self.keys:
            return Where(self.file, *self.keys[path])
        while path and path not in self.values:
            path = path[:-1]
        place = self.values.get(path)
        return Where(self.file, *place) if place else Where(self.file)


def read_documents(text: str, file: str) -> list[Document]:
    """Parse a YAML stream. Raises RecipeError for bad syntax, duplicate keys and documents that explode."""
    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = []
    loader = None
    try:
        _check_depth(yaml.parse(text, Loader=kind), file)
        loader = kind(text)
        while loader.check_node():
            root = loader.get_node()
            assert isinstance(root, yaml.Node)
            documents.append(_build(root, file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = Where(file, mark.line + 1, mark.column + 1) if mark else Where(file)
        problem = getattr(error, "problem", None) or str(error)
        raise RecipeError("not valid YAML", where=where, why=str(problem)) from None
    except UnicodeEncodeError as error:
        raise RecipeError("not text", where=Where(file), why=error.reason) from None
    finally:
        if loader is not None:
            loader.dispose()
    return documents


def _check_depth(events: Iterable[yaml.Event], file: str) -> None:
    """Refuse what the composer, which calls itself at every level and is not Python, would not survive."""
    depth = 0
    for number, event in enumerate(events):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEEPEST or number > 3 * MOST_NODES:
            mark = event.start_mark
            place = Where(file, mark.line + 1, mark.column + 1) if mark else Where(file)
            if depth > DEEPEST:
                raise RecipeError("nested too deeply", where=place, why=f"over {DEEPEST} levels")
            raise RecipeError("too many values", where=place, why=f"over {MOST_NODES:,}")


def read_file(path: Path) -> list[Document]:
    """The documents of a YAML file."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise RecipeError(f"the recipe {str(path)!r} is not a regular file", hint="check the path")
        if size > LARGEST:
            raise RecipeError("too large for a recipe", where=Where(str(path)), why=f"{size:,} bytes")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError("not text in UTF-8", where=Where(str(path)), why=str(error)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"cannot read recipe {str(path)!r}", why=why, hint="check the path") from None
    documents = read_documents(text, str(path))
    if not documents or all(document.data is None for document in documents):
        raise RecipeError("the recipe is empty", where=Where(str(path)))
    return documents


def _build(root: yaml.Node, file: str) -> Document:
    document = Document(None, file)
    budget = iter(range(MOST_NODES))
    data = _value(root, (), document, budget)
    return Document(data, file, document.keys, document.values)


def _value(node: yaml.Node, path: KeyPath, document: Document, budget: Iterator[int]) -> Any:
    place = (node.start_mark.line + 1, node.start_mark.column + 1)
    if next(budget, None) is None:
        raise RecipeError("too many values", where=Where(document.file, *place), why=f"over {MOST_NODES:,}")
    if len(path) > DEEPEST:
        raise RecipeError("nested too deeply", where=Where(document.file, *place), why=f"over {DEEPEST} levels")
    document.values[path] = place
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            at = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError("a key must be a word", where=Where(document.file, *at))
            key = key_node.value
            if len(key) > LONGEST:
                raise RecipeError("a key is too long", where=Where(document.file, *at), why=f"{len(key):,} characters")
            if key in mapping:
                raise RecipeError(f"the key {key!r} stands twice", where=Where(document.file, *at))
            document.keys[(*path, key)] = at
            mapping[key] = _value(value_node, (*path, key), document, budget)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), document, budget) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node, document.file, place)


def _scalar(node: yaml.ScalarNode, file: str, place: tuple[int, int]) -> Any:
    text, tag = node.value, node.tag
    if len(text) > LONGEST:
        raise RecipeError("a value is too long", where=Where(file, *place), why=f"{len(text):,} characters")
    if tag == "tag:yaml.org,2002:null":
        return None
    if tag == "tag:yaml.org,2002:bool":
        return text.lower() in ("yes", "true", "on")
    if tag == "tag:yaml.org,2002:int":
        try:
            number = int(text.replace("_", ""), 0) if not text.lstrip("+-").startswith("0") else _leading_zero(text)
        except ValueError:
            return text
        if abs(number) >= LARGEST_INT:
            raise RecipeError("a whole number is too large", where=Where(file, *place), why="over 64 bits")
        return number
    if tag == "tag:yaml.org,2002:float" or (tag == "tag:yaml.org,2002:str" and not node.style):
        try:  # also 1e-5, which YAML 1.1 takes for a word
            number = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return text
        if tag == "tag:yaml.org,2002:str" and not (math.isfinite(number) and text[:1] in "+-.0123456789"):
            return text
        return number
    if tag in (
        "tag:yaml.org,2002:str",
        "tag:yaml.org,2002:timestamp",
        "tag:yaml.org,2002:merge",
        "tag:yaml.org,2002:value",
    ):
        return text
    raise RecipeError(f"the tag {tag!r} is not allowed", where=Where(file, *place))


def _leading_zero(text: str) -> Any:
    return (
        int(text, 0)
        if text.strip("+-").lower().startswith(("0x", "0b", "0o")) or text.strip("+-0") == ""
        else int(text, 10)
    )


class _Dumper(yaml.SafeDumper):
    """Quotes words that this module would read as numbers, such as 1e5."""


def _write_word(dumper: _Dumper, text: str) -> yaml.Node:
    quoted = isinstance(_scalar(yaml.ScalarNode("tag:yaml.org,2002:str", text), "", (0, 0)), float)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _write_word)


def write_yaml(data: Any) -> str:
    """Plain data as YAML that reads back the same."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
