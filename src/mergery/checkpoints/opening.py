"""From what a user names to a checkpoint: a folder, a weight file, an id of a model on the hub, a state dict or a module."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergery.checkpoints.base import Checkpoint
from mergery.errors import CheckpointError, Where

WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def open_checkpoint(
    source: Any,
    *,
    revision: str | None = None,
    task: str | None = None,
    label: str | None = None,
    relative_to: Path | None = None,
    headers: dict[str, Any] | None = None,
) -> Checkpoint:
    """Open a model for reading. Headers and small text files are read, weights are not.

    `source` is a folder, a weight file, a hub id such as `org/name`, a state dict (name to tensor or array),
    a torch module, or a checkpoint, which is returned as it is. A path that exists is taken before a hub id
    of that spelling. `revision` is a branch, tag or commit of a hub model, `task` one of the models of a packed
    folder. `label` is what messages call the model. Relative paths are looked up from the folder `relative_to`.
    One dictionary given as `headers` for several local models lets equal headers be read and kept once.
    Raises `CheckpointError`.
    """
    if isinstance(source, Checkpoint):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return _open_in_memory(source, label)
    text = os.fspath(source)
    try:
        path = (relative_to or Path()) / Path(text).expanduser()
        found = path.exists() or path.is_symlink()
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name that is too long, the home of nobody
        why = getattr(error, "strerror", None) or str(error)
        raise CheckpointError("this path cannot be looked up", where=Where(repr(text)), why=why) from None
    if found:
        if revision is not None:
            why = f"the revision {revision!r} belongs to a model on the hub"
            hint = f"leave out the revision, or rename the folder if you mean the hub's {text}"
            raise CheckpointError("a local path has no revisions", where=Where(text), why=why, hint=hint)
        return _open_path(path, task, label or text, headers)
    if task is not None:
        raise _not_packed(task, text)
    if isinstance(source, str) and _HUB_ID.fullmatch(text) and not text.endswith(WEIGHT_FILES):
        return _open_on_hub(text, revision, label, path)
    raise _nothing_there(text, path)


def _near_paths(path: Path) -> list[str]:
    """Paths that exist and are spelled nearly like `path`, the nearest first."""
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        return []
    return [str(missing.parent / name) for name in difflib.get_close_matches(missing.name, names, n=3, cutoff=0.6)]


def _not_packed(task: str, text: str) -> CheckpointError:
    why = f"the task {task!r} is of folders that `mergery pack` wrote"
    return CheckpointError("these are no packed models", where=Where(text), why=why, hint="leave out the task")


def _open_path(path: Path, task: str | None, label: str, headers: dict[str, Any] | None) -> Checkpoint:
    from mergery.checkpoints.folder import FileCheckpoint, FolderCheckpoint
    from mergery.checkpoints.formats.packed import CARD, PackedCheckpoint

    if (path / CARD).is_file():
        return PackedCheckpoint(path, task, label, open_checkpoint)
    if task is not None:
        raise _not_packed(task, str(path))
    if path.is_dir():
        return FolderCheckpoint(path, label, headers)
    if path.suffix in WEIGHT_FILES:
        return FileCheckpoint(path, label, headers)
    raise CheckpointError(
        "this is not a weight file",
        where=Where(str(path)),
        why=f"its name ends in {path.suffix or 'nothing'!r}; weight files end in {', '.join(WEIGHT_FILES)}",
        hint=f"name the model's folder: {path.parent}" if (path.parent / "config.json").exists() else "",
    )


def _open_on_hub(repo: str, revision: str | None, label: str | None, path: Path) -> Checkpoint:
    from mergery.checkpoints.hub.checkpoint import HubCheckpoint
    from mergery.checkpoints.hub.remote import ModelNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    try:
        return HubCheckpoint(repo, revision=revision, label=label, endpoint=endpoint)
    except ModelNotFoundError as error:
        near = _near_paths(path)
        if not near:
            raise
        raise CheckpointError(error.what, where=error.where, hint=f"did you mean the folder {near[0]!r}?") from None


def _open_in_memory(source: Any, label: str | None) -> Checkpoint:
    from mergery.checkpoints.memory import MemoryCheckpoint, from_module

    if isinstance(source, Mapping):
        return MemoryCheckpoint(source, label)
    if callable(getattr(source, "state_dict", None)):
        return from_module(source, label)
    what = f"an object of type {type(source).__name__} is not a model"
    hint = "pass a path, a hub id such as org/name, a state dict or a torch module"
    raise CheckpointError(what, hint=hint)


def _nothing_there(text: str, path: Path) -> CheckpointError:
    near = _near_paths(path)
    hint = f"did you mean {near[0]!r}?" if near else "check the path; a model on the hub is named org/name"
    return CheckpointError("there is no such file or folder", where=Where(text), hint=hint)
