"""JSON files that people and tools write: `config.json` and shard indexes. Errors name line and column."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from typing import Any

from mergery.errors import CheckpointError, Where

DEEPEST = 100  # lists and objects within one another


def parse_object(data: bytes, file: str, *, unique: bool = False) -> dict[str, Any]:
    """The JSON object in `data`. With `unique`, a key that stands twice in one object is an error.

    Without it the last one counts, as it does for every loader of `config.json`.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
        raise _invalid("this file is not valid UTF-8", Where(file, line, column), error.reason) from None
    try:
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
    except json.JSONDecodeError as error:
        raise _invalid("this is not valid JSON", Where(file, error.lineno, error.colno), error.msg) from None
    except (ValueError, RecursionError) as error:
        raise _invalid("this is not valid JSON", Where(file), str(error)) from None
    if too_deep(value):
        raise _invalid("this file is nested too deeply", Where(file), f"over {DEEPEST} levels")
    if "\\u" in text and not is_text(json.dumps(value, ensure_ascii=False)):
        raise _invalid("this file holds half a character", Where(file), "a surrogate stands without its pair")
    if not isinstance(value, dict):
        found = {list: "a list", str: "text", type(None): "null"}.get(type(value), "a single value")
        raise _invalid("this file should hold a JSON object", Where(file, 1, 1), f"it holds {found}")
    return value


def parse_config(data: bytes, file: str) -> dict[str, Any]:
    """The object in a `config.json`."""
    config = parse_object(data, file)
    family = config.get("model_type")
    if family is not None and not isinstance(family, str):
        raise _invalid("`model_type` is not text", Where(file), f"it is {reprlib.repr(family)}")
    return config


def too_deep(value: Any) -> bool:
    """Whether lists and objects stand in one another so deeply that code which follows them might fail."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for outer in level
            if isinstance(outer, (dict, list))
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def is_text(word: str) -> bool:
    """Whether the text can be written: JSON can escape half a character, which no file can hold."""
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = dict(pairs)
    if len(known) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"{counts.most_common(1)[0][0]!r} stands in it twice")
    return known


def _invalid(what: str, where: Where, why: str) -> CheckpointError:
    return CheckpointError(what, where=where, why=why, hint="mend the file, or download it again")
