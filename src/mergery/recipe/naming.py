"""The pattern of a method's names: `find` takes them in any case, with any signs between their letters."""

from __future__ import annotations

from collections.abc import Sequence

SIGNS = r"[\W_]*"  # what is neither letter nor digit


def pattern_of(names: Sequence[str]) -> str:
    """The regular expression, for JSON schema, of names without capitals and signs; those that begin as the first share it."""
    first = names[0]
    tails = "|".join(_spelled(name.removeprefix(first)) for name in names if name.startswith(first))
    others = (_spelled(name) for name in names if not name.startswith(first))
    return f"^{SIGNS}({'|'.join((f'{_spelled(first)}({tails})', *others))})$"


def _spelled(name: str) -> str:
    return "".join(f"[{''.join({letter: 0, letter.upper(): 0})}]{SIGNS}" for letter in name)
