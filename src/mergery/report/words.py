"""Facts in the words and units that a person would use."""

from __future__ import annotations

from typing import Any


def count(number: int) -> str:
    """Parameters: `7.2 B`, `350 M`, `12.3 k`."""
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return str(number)


def several(number: int, what: str) -> str:
    """`1 file`, `3 files`."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def vocabulary_line(facts: dict[str, Any]) -> str:
    """The output's tokens in one line. `facts` are those of the output's vocabulary."""
    parts = [f"{facts['tokens']:,} tokens ({facts['kind']}), {facts['rows']:,} rows"]
    if facts["from_others"]:
        parts.append(f"{facts['from_others']:,} from other models than {facts['lead']}")
    if facts["added"]:
        parts.append(f"{len(facts['added']):,} added")
    if facts["made"]:
        parts.append(f"{facts['made']:,} with rows that are made")
    return ", ".join(parts)
