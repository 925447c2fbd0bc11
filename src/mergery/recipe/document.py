"""YAML with line and column: what the user wrote, and where each key and value stands."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from mergery.checkpoints.nearby import near_path
from mergery.errors import RecipeError, Where

KeyPath = tuple[Any, ...]
"""The keys and indices that lead to a value."""

LARGEST = 5_000_000  # bytes of one recipe
MOST_NODES = 50_000  # values after aliases are expanded: a guard against documents that explode
DEEPEST = 64
LONGEST = 10_000  # characters of one key or value
LARGEST_INT = 1 << 64
PLAIN = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")  # what collections are
MERGE = "tag:yaml.org,2002:merge"  # of the key <<


_SMALLER = "a recipe is a small file of names and numbers: check that this is one"
_ANY = "check indentation, brackets and quotes in this place"
_YAML = {
    "mapping values are not allowed in this context": "check the indentation, and put text that holds ': ' in quotes",
    "did not find expected key": "check the indentation: keys of one mapping begin in one column",
    "found undefined alias": "*name refers to &name, which stands before it; put text that begins with * in quotes",
    "could not find expected ':'": "put a colon and a space behind the key",
}
"""What to try, by what the parser says."""


@dataclass(frozen=True)
class Document:
    """One parsed YAML document: plain data, and the place of every key and value by its path."""

    data: Any
    file: str
    keys: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    values: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)
    holders: frozenset[str] = frozenset()  # keys of the top whose values others refer to by an anchor
    changed: Mapping[KeyPath, str] = field(default_factory=dict)  # options by which values were put in their places

    def where(self, path: KeyPath = (), *, key: bool = False) -> Where:
        """The place of a value (or of its key); of the nearest enclosing one where it has none itself."""
        path = tuple(path)
        for count in range(len(path), 0, -1) if self.changed else ():
            if path[:count] in self.changed:
                return Where(self.changed[path[:count]])
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
    except yaml.reader.ReaderError as error:
        raise _no_character(text, file, error.reason) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = Where(file, mark.line + 1, mark.column + 1) if mark else Where(file)
        problem = str(getattr(error, "problem", None) or error)
        tab = mark is not None and text.splitlines()[mark.line : mark.line + 1] and "\t" in text.splitlines()[mark.line]
        hint = "indent with spaces, not with tabs" if tab else _YAML.get(problem, _ANY)
        raise RecipeError("not valid YAML", where=where, why=problem, hint=hint) from None
    except UnicodeEncodeError as error:
        raise RecipeError("not text", where=Where(file), why=error.reason, hint="save it as UTF-8") from None
    finally:
        if loader is not None:
            loader.dispose()
    return documents


def _no_character(text: str, file: str, reason: str) -> RecipeError:
    """What is wrong with a text in which a character stands that YAML does not know."""
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    before = text[: found.start()] if found else ""
    where = Where(file, before.count("\n") + 1, len(before) - before.rfind("\n")) if found else Where(file)
    what = f"the character U+{ord(found[0]):04X} cannot stand in YAML" if found else "not valid YAML"
    return RecipeError(what, where=where, why=reason, hint="delete it; it may be invisible in an editor")


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
                raise RecipeError("nested too deeply", where=place, why=f"over {DEEPEST} levels", hint=_SMALLER)
            raise RecipeError("too many values", where=place, why=f"over {MOST_NODES:,}", hint=_SMALLER)


def read_file(path: Path) -> list[Document]:
    """The documents of a YAML file, or of a pipe. Raises RecipeError."""
    try:
        with path.open("rb") as file:
            return read_stream(file, str(path))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        why = getattr(error, "strerror", None) or str(error)
        near = near_path(str(path)) if isinstance(error, FileNotFoundError) else ""
        hint = f"did you mean {near!r}?" if near else "check the path"
        raise RecipeError(f"cannot read recipe {str(path)!r}", why=why, hint=hint) from None


def read_stream(stream: BinaryIO, name: str) -> list[Document]:
    """The documents of a file, of a pipe or of standard input. Raises RecipeError."""
    data = stream.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise RecipeError("too large for a recipe", where=Where(name), why=f"over {LARGEST:,} bytes", hint=_SMALLER)
    try:
        documents = read_documents(data.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        raise _not_utf8(data, name, error.start) from None
    if not documents or all(document.data is None for document in documents):
        hint = "begin with models: {base: ./base, math: ./math} and merge: {method: linear}"
        raise RecipeError("the recipe is empty", where=Where(name), hint=hint)
    return documents


def _not_utf8(data: bytes, name: str, place: int) -> RecipeError:
    """What is wrong with a file whose byte at a place is of no character in UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return RecipeError("not text in UTF-8", where=Where(name), why="it is UTF-16", hint="save it as UTF-8")
    if b"\0" in data:
        hint = "a recipe is a YAML file that names models; `mergery inspect` says what a weight file holds"
        return RecipeError("not a recipe", where=Where(name), why="it is no text", hint=hint)
    line, column = data.count(b"\n", 0, place) + 1, place - data.rfind(b"\n", 0, place)
    why = f"the byte 0x{data[place]:02x} in this place is of no character"
    return RecipeError("not text in UTF-8", where=Where(name, line, column), why=why, hint="save it as UTF-8")


def _build(root: yaml.Node, file: str) -> Document:
    document = Document(None, file)
    budget = iter(range(MOST_NODES))
    data = _value(root, (), document, budget)
    return Document(data, file, document.keys, document.values, _holders(root))


def _holders(root: yaml.Node) -> frozenset[str]:
    """The keys of the top in which an anchor stands that a later key refers to."""
    owners: dict[int, str] = {}  # of nodes, by identity: an alias is the node of its anchor
    holders: set[str] = set()
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode):
            continue
        waiting, seen = [value], set[int]()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            owner = owners.setdefault(id(node), key.value)
            if owner != key.value:
                holders.add(owner)
            elif isinstance(node, yaml.CollectionNode):
                waiting += [each for item in node.value for each in (item if isinstance(item, tuple) else (item,))]
    return frozenset(holders)


def _value(node: yaml.Node, path: KeyPath, document: Document, budget: Iterator[int]) -> Any:
    place = (node.start_mark.line + 1, node.start_mark.column + 1)
    if next(budget, None) is None:
        why = f"over {MOST_NODES:,}"
        raise RecipeError("too many values", where=Where(document.file, *place), why=why, hint=_SMALLER)
    if len(path) > DEEPEST:
        why = f"over {DEEPEST} levels"
        raise RecipeError("nested too deeply", where=Where(document.file, *place), why=why, hint=_SMALLER)
    if isinstance(node, yaml.CollectionNode) and node.tag not in PLAIN:
        raise RecipeError(
            f"the tag {node.tag!r} is not allowed", where=Where(document.file, *place), hint="leave it out"
        )
    document.values[path] = place
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in _merged_pairs(node, document.file, budget):
            at = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise RecipeError("a key must be a word", where=Where(document.file, *at), hint="put it in quotes")
            key = key_node.value
            if len(key) > LONGEST:
                why = f"{len(key):,} characters"
                raise RecipeError("a key is too long", where=Where(document.file, *at), why=why, hint=_SMALLER)
            if key in mapping:
                first = document.keys.get((*path, key))
                why = f"it stands in line {first[0]} too, and only one can count" if first else "only one can count"
                hint = "keep one of them"
                raise RecipeError(f"the key {key!r} stands twice", where=Where(document.file, *at), why=why, hint=hint)
            document.keys[(*path, key)] = at
            mapping[key] = _value(value_node, (*path, key), document, budget)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, index), document, budget) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node, document.file, place)


def _merged_pairs(
    node: yaml.MappingNode, file: str, budget: Iterator[int], depth: int = 0
) -> list[tuple[yaml.Node, yaml.Node]]:
    """The keys and values of a mapping, with those that `<<` takes from others behind; its own go before them."""
    own = [pair for pair in node.value if pair[0].tag != MERGE]
    taken = [pair for pair in node.value if pair[0].tag == MERGE]
    if not taken:
        return own
    place = Where(file, taken[-1][0].start_mark.line + 1, taken[-1][0].start_mark.column + 1)
    if len(taken) > 1:
        raise RecipeError("the key '<<' stands twice", where=place, hint="list what it takes: <<: [*one, *two]")
    if depth > DEEPEST:
        raise RecipeError("nested too deeply", where=place, why=f"over {DEEPEST} levels", hint=_SMALLER)
    if next(budget, None) is None:
        raise RecipeError("too many values", where=place, why=f"over {MOST_NODES:,}", hint=_SMALLER)
    value = taken[0][1]
    names = {key.value for key, _ in own if isinstance(key, yaml.ScalarNode)}
    for each in value.value if isinstance(value, yaml.SequenceNode) else [value]:
        if not isinstance(each, yaml.MappingNode):
            place = Where(file, each.start_mark.line + 1, each.start_mark.column + 1)
            raise RecipeError("'<<' takes mappings only", where=place, hint="<<: *name, or <<: [*one, *two]")
        for key, inner in _merged_pairs(each, file, budget, depth + 1):
            if not isinstance(key, yaml.ScalarNode):
                own.append((key, inner))  # which is refused as any such key is
            elif key.value not in names:
                own.append((key, inner))
                names.add(key.value)
    return own


def _scalar(node: yaml.ScalarNode, file: str, place: tuple[int, int]) -> Any:
    text, tag = node.value, node.tag
    if len(text) > LONGEST:
        raise RecipeError(
            "a value is too long", where=Where(file, *place), why=f"{len(text):,} characters", hint=_SMALLER
        )
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
            raise RecipeError(
                "a whole number is too large", where=Where(file, *place), why="over 64 bits", hint="write a smaller one"
            )
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
        MERGE,
        "tag:yaml.org,2002:value",
    ):
        return text
    raise RecipeError(f"the tag {tag!r} is not allowed", where=Where(file, *place), hint="leave it out")


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
