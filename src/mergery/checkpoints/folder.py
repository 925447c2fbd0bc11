"""Model folders and single weight files on this machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from mergery.checkpoints.base import Contents
from mergery.checkpoints.byte_files import LocalFile
from mergery.checkpoints.config import Config
from mergery.checkpoints.file_kinds import ADAPTER, is_side_file, is_weight_file
from mergery.checkpoints.file_names import stem_of
from mergery.checkpoints.finding import open_weights
from mergery.checkpoints.formats import open_weight_file
from mergery.checkpoints.json_files import is_text, parse_config
from mergery.checkpoints.stored import StoredCheckpoint
from mergery.checkpoints.weights import join
from mergery.errors import CheckpointError, Where

DEPTH, MOST = 3, 5000  # folders in one another that are looked into, and names in one of them


class FileCheckpoint(StoredCheckpoint):
    """One weight file: `.safetensors`, `.bin`, `.pt`, `.pth` or `.ckpt`; no config, and no side files but an adapter's own
    config, where the file is named as peft names it.
    """

    def __init__(self, path: Path, label: str | None = None, headers: dict[str, Any] | None = None) -> None:
        self.label, self.location = label or path.name, str(path)
        file = open_weight_file(LocalFile(path), headers)
        self._weights = join({path.name: file})
        adapter = path.with_name(ADAPTER)
        beside = (ADAPTER,) if path.name.startswith("adapter_model") and adapter.is_file() else ()
        self._contents, self._adapter = Contents(side=beside, unread=file.unread, stem=stem_of(path.name)), adapter

    def _fetch(self, name: str) -> bytes:
        return self._adapter.read_bytes()


class FolderCheckpoint(StoredCheckpoint):
    """A model folder as `save_pretrained` writes it: weights in one file or in shards, config, side files."""

    def __init__(self, path: Path, label: str | None = None, headers: dict[str, Any] | None = None) -> None:
        self.label, self.location, self._path = label or path.name, str(path), path
        names = _names(path)
        self._config_sha256 = ""
        if "config.json" in names:
            text = self._fetch("config.json")
            self._config = Config(parse_config(text, f"{self.location}/config.json"))
            self._config_sha256 = hashlib.sha256(text).hexdigest()
        self._weights, self._contents = open_weights(
            names,
            self.location,
            self._fetch,
            lambda files: [open_weight_file(LocalFile(path / name), headers) for name in files],
        )

    def fingerprint(self) -> dict[str, Any]:
        config = {"config_sha256": self._config_sha256} if self._config_sha256 else {}
        return super().fingerprint() | config

    def _fetch(self, name: str) -> bytes:
        try:
            if not (self._path / name).is_file():  # a pipe would be waited for, and a device has no end
                missing = not (self._path / name).exists()
                raise OSError(errno.ENOENT, "there is no such file" if missing else "it is not a regular file")
            return (self._path / name).read_bytes()
        except OSError as error:
            where = Where(f"{self.location}/{name}")
            why = error.strerror or str(error)
            hint = "check that the file is there and that you may read it"
            raise CheckpointError("this file cannot be read", where=where, why=why, hint=hint) from None


def _names(path: Path) -> list[str]:
    """Files of the folder and of folders within, with `/` between; a folder that is not looked into, with `/` behind it."""
    try:
        names = list(_walk(path, "", DEPTH))
    except OSError as error:
        why = error.strerror or str(error)
        hint = "check that the folder is there and that you may read it"
        raise CheckpointError("this folder cannot be read", where=Where(str(path)), why=why, hint=hint) from None
    if odd := [name for name in names if not is_text(name) and (is_side_file(name) or is_weight_file(name))]:
        hint = "rename it"
        what, why = "the name of a file is not valid UTF-8", f"it is {odd[0]!r}"
        raise CheckpointError(what, where=Where(str(path)), why=why, hint=hint)
    return [name for name in names if is_text(name)]


def _walk(path: Path, prefix: str, depth: int) -> Iterator[str]:
    """Names below a folder, without hidden ones. A folder within that cannot be read is not looked into."""
    with os.scandir(path) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{prefix}{entry.name}"
        if entry.name.startswith("."):
            continue
        if not entry.is_dir():
            yield name
            continue
        inner: list[str] = []
        if depth > 1:
            with contextlib.suppress(OSError):
                inner = list(islice(_walk(path / entry.name, f"{name}/", depth - 1), MOST + 1))
        yield from inner if 0 < len(inner) <= MOST else [f"{name}/"]
