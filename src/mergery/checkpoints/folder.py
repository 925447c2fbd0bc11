"""Model folders and single weight files on this machine."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path
from typing import Any

from mergery.checkpoints.byte_files import LocalFile
from mergery.checkpoints.config import Config
from mergery.checkpoints.file_names import is_side_file, is_weight_file
from mergery.checkpoints.formats import open_weight_file
from mergery.checkpoints.json_files import is_text, parse_config
from mergery.checkpoints.stored import StoredCheckpoint
from mergery.checkpoints.weights import join, open_weights
from mergery.errors import CheckpointError, Where


class FileCheckpoint(StoredCheckpoint):
    """One weight file: `.safetensors`, `.bin`, `.pt`, `.pth` or `.ckpt`; no config, no side files."""

    def __init__(self, path: Path, label: str | None = None, headers: dict[str, Any] | None = None) -> None:
        self.label, self.location = label or path.name, str(path)
        file = open_weight_file(LocalFile(path), headers)
        self._weights = join({path.name: file})
        self.unread = file.unread


class FolderCheckpoint(StoredCheckpoint):
    """A model folder as `save_pretrained` writes it: weights in one file or in shards, config, side files."""

    def __init__(self, path: Path, label: str | None = None, headers: dict[str, Any] | None = None) -> None:
        self.label, self.location, self._path = label or path.name, str(path), path
        names = _names(path)
        self._files = tuple(sorted(name for name in names if is_side_file(name)))
        self._config_sha256 = ""
        if "config.json" in names:
            text = self._fetch("config.json")
            self._config = Config(parse_config(text, f"{self.location}/config.json"))
            self._config_sha256 = hashlib.sha256(text).hexdigest()
        self._weights, self.unread = open_weights(
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
    """Files of the folder, and of those subfolders that side files may stand in, with `/` between."""
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        why = error.strerror or str(error)
        raise CheckpointError("this folder cannot be read", where=Where(str(path)), why=why) from None
    names = [entry.name for entry in entries if not entry.is_dir()]
    templates = path / "additional_chat_templates"
    if templates.is_dir():
        names += [f"{templates.name}/{entry.name}" for entry in sorted(templates.iterdir()) if entry.is_file()]
    if odd := [name for name in names if not is_text(name) and (is_side_file(name) or is_weight_file(name))]:
        raise CheckpointError("the name of a file is not valid UTF-8", where=Where(str(path)), why=f"it is {odd[0]!r}")
    if not any(name.endswith((".safetensors", ".bin", ".json")) for name in names):
        _suggest_inner(path, [entry for entry in entries if entry.is_dir()])
    return names


def _suggest_inner(path: Path, folders: list[Path]) -> None:
    """A run's folder holds the model one level down; say so rather than that there are no weights."""
    models = [folder for folder in folders if (folder / "config.json").is_file()]
    if models:
        names = ", ".join(folder.name for folder in models[:5])
        raise CheckpointError(
            "no weights here, but in folders within",
            where=Where(str(path)),
            why=f"these hold a config.json: {names}",
            hint=f"name one of them: {models[-1]}",
        )
