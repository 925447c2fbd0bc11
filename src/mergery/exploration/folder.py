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
def locked(out: Path, what: str) -> Iterator[None]:
    """The folder of a search, made where it is missing, for this process alone; `what` is searched there and nothing else.

    Raises RecipeError.
    """
    if out.exists() and not out.is_dir():
        raise RecipeError(f"{str(out)!r} is a file", why="a search is kept in a folder", hint="name another place")
    lock = out / LOCK
    if out.is_dir() and any(out.iterdir()):
        before = lock.read_text(encoding="utf-8", errors="replace") if lock.exists() else None
        if before not in (what, ""):
            why = f"it holds a {before}" if before else "it is not empty, and no search has been here"
            raise RecipeError(
                f"a {what} needs a folder of its own", where=Where(str(out)), why=why, hint="name a new one"
            )
    out.mkdir(parents=True, exist_ok=True)
    file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            busy = "another search is at work in this folder"
            raise RecipeError(busy, where=Where(str(out)), hint="wait for it") from None
        os.pwrite(file, what.encode(), 0)
        yield
    finally:
        os.close(file)
