"""What was perhaps meant by a path at which there is nothing."""

from __future__ import annotations

import difflib
from pathlib import Path


def near_path(text: str, path: Path | None = None) -> str:
    """The path that exists and is spelled most nearly like `text`, in the same way as it; empty where there is none.

    `path` is where `text` leads, if it is told from another folder than this process's.
    """
    missing, behind = Path(text) if path is None else path, 1  # parts that `text` has from the missing one on
    while not missing.parent.is_dir():
        missing, behind = missing.parent, behind + 1
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.6)
    parts = text.rstrip("/").split("/")
    return "/".join([*parts[:-behind], *near]) if near and behind <= len(parts) else ""
