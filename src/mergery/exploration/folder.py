"""The folder of a search: for one process at a time, and never one with other things in it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mergery.errors import RecipeError, Where

RECIPE, LOCK = "recipe.yaml", ".lock"


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """The folder of a search, made where it is missing, for this process alone. Raises RecipeError."""
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{str(out)!r} is a file", why="a search is kept in a folder", hint="name another place")
    if out.is_dir() and any(out.iterdir()) and not (out / LOCK).exists():
        why = "it is not empty, and no search has been here"
        raise RecipeError("the search needs a folder of its own", where=Where(str(out)), why=why, hint="name a new one")
    out.mkdir(parents=True, exist_ok=True)
    file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            what = "another search is at work in this folder"
            raise RecipeError(what, where=Where(str(out)), hint="wait for it") from None
        yield
    finally:
        os.close(file)
