"""A line of a JSONL file, with the column of every value."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass
class Line:
    """One JSON object: its values, and the columns at which they stand."""

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)


def parse_object(number: int, text: str) -> Line:
    """The object on one line, with the column of every value. Raises json.JSONDecodeError."""
    line = Line(number)

    def refuse(constant: str) -> NoReturn:
        raise json.JSONDecodeError(f"{constant} is no JSON number", text, text.find(constant))

    decode = json.JSONDecoder(parse_constant=refuse).raw_decode

    def skip(at: int) -> int:
        found = _SPACE.match(text, at)
        return found.end() if found else at

    def expect(at: int, character: str) -> int:
        at = skip(at)
        if text[at : at + 1] != character:
            raise json.JSONDecodeError(f"{character!r} is missing", text, at)
        return skip(at + 1)

    at = skip(0)
    if text[at] != "{":
        raise json.JSONDecodeError("an item is a JSON object in braces", text, at)
    at = skip(at + 1)
    while text[at : at + 1] != "}":
        start = at
        if text[at : at + 1] != '"':
            raise json.JSONDecodeError("a name in double quotes is missing", text, at)
        key, at = decode(text, at)
        if key in line.values:
            raise json.JSONDecodeError(f"{key!r} stands here twice", text, start)
        at = expect(at, ":")
        line.columns[key] = at + 1
        try:
            line.values[key], at = decode(text, at)
        except ValueError as error:  # json's own, and numbers of too many digits
            if isinstance(error, json.JSONDecodeError):
                raise
            raise json.JSONDecodeError(str(error), text, at) from None
        at = skip(at)
        if text[at : at + 1] == ",":
            at = skip(at + 1)
            if text[at : at + 1] == "}":
                raise json.JSONDecodeError("a comma stands before the brace", text, at)
        elif text[at : at + 1] != "}":
            raise json.JSONDecodeError("',' or '}' is missing", text, at)
    at = skip(at + 1)
    if at != len(text):
        raise json.JSONDecodeError("there is more on this line", text, at)
    return line
