"""From what a user names to a checkpoint: a folder, a weight file, an id of a model on the hub, a state dict or a module."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergery.checkpoints.adapted import ROUNDINGS, AdaptedCheckpoint
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.file_kinds import WEIGHT_SUFFIXES, other_form
from mergery.checkpoints.hub.addresses import Address, cached_snapshot, read_address
from mergery.checkpoints.nearby import near_path
from mergery.checkpoints.quantised.checkpoint import decoded
from mergery.checkpoints.renamed import unwrapped
from mergery.checkpoints.without_weights import unread_form
from mergery.errors import CheckpointError, Where

_WORD = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)  # what might be the name of a model without that of its owner


def open_checkpoint(
    source: Any,
    *,
    revision: str | None = None,
    task: str | None = None,
    label: str | None = None,
    relative_to: Path | None = None,
    headers: dict[str, Any] | None = None,
    adapters: Sequence[Any] = (),
    rounding: str = ROUNDINGS[0],
    decode: bool = True,
) -> Checkpoint:
    """Open a model for reading. Headers and small text files are read, weights are not.

    `source` is a folder, a weight file, a GGUF file, a model of the hub as `org/name`, `org/name@revision` or by its address
    on the web, a state dict (name to tensor or array), a torch module, or a checkpoint, which is returned as it is. A path
    that exists is taken before a hub id of that spelling. `revision` is a branch, tag or commit of a hub model, `task` one of
    the models of a packed folder. `adapters` are put on the model, as those behind a `+` are: `model+adapter`; `rounding` is
    one of `ROUNDINGS`. `label` is what messages call the model. Relative paths are looked up from the folder
    `relative_to`. One dictionary given as `headers` for several local models lets equal headers be read and kept once.
    What training code puts before a model's names is left out: see `unwrapped`. Quantised weights are decoded as they are
    read, where every one of them is in a layout that is known, unless `decode` says not to. Raises `CheckpointError`.
    """
    if isinstance(source, str) and "+" in source and not _is_path(source, relative_to):
        source, *more = source.split("+")
        if not all((source, *more)):
            why = "a model and its adapters stand around each +"
            raise CheckpointError(
                "this is no model", where=Where("+".join((source, *more))), why=why, hint="MODEL+ADAPTER"
            )
        adapters = (*more, *adapters)
    if adapters:
        base = open_checkpoint(
            source, revision=revision, task=task, label=label, relative_to=relative_to, headers=headers
        )
        opened = [base]
        try:
            opened += [open_checkpoint(each, relative_to=relative_to) for each in adapters]
        except BaseException:
            base.close()
            raise
        made = AdaptedCheckpoint(base, opened[1:], rounding)
        made.label = label or "+".join(each.label for each in opened)
        return made
    if isinstance(source, Checkpoint):
        return source
    stored = unwrapped(_open(source, revision, task, label, relative_to, headers))
    return decoded(stored, headers) if decode else stored


def _open(
    source: Any,
    revision: str | None,
    task: str | None,
    label: str | None,
    relative_to: Path | None,
    headers: dict[str, Any] | None,
) -> Checkpoint:
    """The checkpoint as it is stored."""
    if not isinstance(source, (str, os.PathLike)):
        return _open_in_memory(source, label)
    text = os.fspath(source)
    try:
        path, found = _look_up(text, relative_to)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL, a name that is too long, the home of nobody
        why = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            "this path cannot be looked up", where=Where(repr(text)), why=why, hint="check the path"
        ) from None
    if found:
        snapshot = cached_snapshot(path, revision)
        if snapshot is not None:
            path, revision = snapshot, None
        if revision is not None:
            why = f"the revision {revision!r} belongs to a model on the hub"
            hint = f"leave out the revision, or rename the folder if you mean the hub's {text}"
            raise CheckpointError("a local path has no revisions", where=Where(text), why=why, hint=hint)
        return _open_path(path, task, label or text, headers)
    if task is not None:
        raise _not_packed(task, text)
    if isinstance(source, str) and not text.endswith((*WEIGHT_SUFFIXES, ".gguf")):
        address = read_address(text, revision)
        if address is not None:
            return _open_on_hub(address, label, text, path)
    raise _nothing_there(text, path, relative_to)


def _look_up(text: str, relative_to: Path | None) -> tuple[Path, bool]:
    """A path from the folder that relative ones start from, and whether anything is there."""
    path = (relative_to or Path()) / Path(text).expanduser()
    return path, path.exists() or path.is_symlink()


def _is_path(text: str, relative_to: Path | None) -> bool:
    try:
        return _look_up(text, relative_to)[1]
    except (OSError, ValueError, RuntimeError):
        return True  # it is said what is wrong with it where it is opened


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
    if not path.exists():
        why = f"it is a symbolic link to {path.readlink()}, which does not exist"
        hint = "mend the link, or download the model again where it is of a cache"
        raise CheckpointError("there is no such file or folder", where=Where(str(path)), why=why, hint=hint)
    if path.suffix in WEIGHT_SUFFIXES:
        return FileCheckpoint(path, label, headers)
    if path.suffix == ".gguf":
        from mergery.checkpoints.gguf.checkpoint import GgufCheckpoint

        return GgufCheckpoint(path, label)
    if form := other_form(path.name):
        raise unread_form(form, str(path))
    beside = (path.parent / "config.json").exists()
    hint = f"name the model's folder: {path.parent}" if beside else "name a weight file, or the folder of a model"
    if path.suffix in (".yaml", ".yml"):
        hint = f"`mergery plan {path}` says what a recipe does; a model is a folder or a weight file"
    raise CheckpointError(
        "this is not a weight file",
        where=Where(str(path)),
        why=f"its name ends in {path.suffix or 'nothing'!r}; weight files end in {', '.join((*WEIGHT_SUFFIXES, '.gguf'))}",
        hint=hint,
    )


def _open_on_hub(address: Address, label: str | None, text: str, path: Path) -> Checkpoint:
    from mergery.checkpoints.hub.checkpoint import HubCheckpoint
    from mergery.checkpoints.hub.remote import ModelNotFoundError, UnreachableError

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    try:
        return HubCheckpoint(address.repo, revision=address.revision, label=label, endpoint=endpoint)
    except (ModelNotFoundError, UnreachableError) as error:
        near = near_path(text, path)
        if not near:
            raise
        hint = f"did you mean the folder {near!r}? If not, {error.hint}"
        raise CheckpointError(error.what, where=error.where, why=error.why, hint=hint) from None


def _open_in_memory(source: Any, label: str | None) -> Checkpoint:
    from mergery.checkpoints.memory import MemoryCheckpoint, from_module

    if isinstance(source, Mapping):
        return MemoryCheckpoint(source, label)
    if callable(getattr(source, "state_dict", None)):
        return from_module(source, label)
    what = f"an object of type {type(source).__name__} is not a model"
    hint = "pass a path, a hub id such as org/name, a state dict or a torch module"
    raise CheckpointError(what, hint=hint)


def _nothing_there(text: str, path: Path, relative_to: Path | None) -> CheckpointError:
    near = near_path(text, path)
    why = ""
    if near:
        hint = f"did you mean {near!r}?"
        hint += " A model on the hub is named org/name" if _WORD.fullmatch(text) else ""
    elif "$" in text:
        hint = "variables of the shell are not looked up: write the path out, or ~ for your home"
    elif "\\" in text:
        hint = "put / between folders"
    else:
        why = f"it is looked up from {str(relative_to.resolve())!r}" if relative_to and text[:1] not in "/~" else ""
        hint = "check the path; a model on the hub is named org/name"
    return CheckpointError("there is no such file or folder", where=Where(text), why=why, hint=hint)
