"""Facts in the words and units that a person would use."""

from __future__ import annotations

from typing import Any


def count(number: int) -> str:
    """Parameters: `7.2 B`, `350 M`, `12.3 k`."""
    for unit, scale in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """`0.8 s`, `40 s`, `6 min`, `3 h 20 min`, `13 days`."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{round(hours + minutes / 60)} h"
    return f"{round(hours / 24)} days"


def about(seconds: float) -> str:
    """An estimate of time: `about a second`, `about 6 min`."""
    return "about a second" if seconds < 1.5 else f"about {duration(max(2, round(seconds)))}".replace(".0 s", " s")


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
