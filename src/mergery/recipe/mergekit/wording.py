"""What a hint says in the keys of a recipe, in those of a mergekit file."""

from __future__ import annotations

import re
from collections.abc import Callable


def _flag(name: str) -> Callable[[re.Match[str]], str]:
    """The words of a list as an option of the command line."""
    return lambda match: " ".join(f"{name} {word.strip()}" for word in match[1].split(","))


WORDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str] | str], ...] = tuple(
    (re.compile(pattern), said)
    for pattern, said in (
        (r"\ballow: \[([^\]]*)\]", _flag("--allow")),
        (r"name it under 'drop' to leave it out: drop: \[([^\]]*)\]", _flag("leave it out with --drop")),
        (r"\bdrop: \[([^\]]*)\]", _flag("--drop")),
        (r"(?:\boutput: )?\{tokenizer: ([^}]*)\}", r"tokenizer_source: \1"),
        (r"\boutput: \{(dtype|chat_template): ([^}]*)\}", r"\1: \2"),
        (r"\{like: ([^,]*), of: ([^}]*)\}", r"{source: {kind: model_token, model: \2, token: \1}}"),
        (r"a 'stack'", "'slices'"),
    )
)
NATIVE = re.compile(
    r"\b(allow|drop|vocabulary|parts|take|stack|convert|rename|preset|unknown|output(?=: {)|tensors(?=: union|: inter)): |"
    r"'(allow|drop|output|vocabulary|parts|take|stack|convert|rename|preset|rest)'"
)
"""Keys of recipes that have no like in mergekit's language."""


def in_mergekits_words(hint: str) -> str:
    """A hint that speaks of keys of recipes, for the writer of a mergekit file.

    Where mergekit has no such key, the hint says where it can be written: into the recipe that the file amounts to.
    """
    for pattern, said in WORDS:
        hint = pattern.sub(said, hint)
    return (
        f"{hint}; `mergery import FILE` prints this file as a recipe, which has these keys"
        if NATIVE.search(hint)
        else hint
    )
