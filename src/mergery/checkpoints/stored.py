"""Checkpoints in weight files: what a folder, a single file and a model on the hub share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import Checkpoint, Contents, TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.weights import Weights, file_marks, hash_files

if TYPE_CHECKING:
    import numpy as np


class StoredCheckpoint(Checkpoint):
    """A checkpoint in weight files, with the config and the side files that stand beside them."""

    _weights: Weights
    _config: Config = Config()
    _contents: Contents = Contents()

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._weights.tensors

    @property
    def config(self) -> Config:
        return self._config

    @property
    def contents(self) -> Contents:
        return self._contents

    @property
    def aliases(self) -> Mapping[str, str]:
        return self._weights.aliases

    def file(self, name: str) -> bytes:
        if name not in self.files and name not in self.contents.unknown:
            raise KeyError(name)
        return self._fetch(name)

    def _fetch(self, name: str) -> bytes:
        """The content of a small file beside the weights."""
        raise KeyError(name)

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        self._weights.read(name, start, stop, into)

    def fingerprint(self) -> dict[str, Any]:
        return {"location": self.location, "files": file_marks(self._weights)}

    def stamp(self) -> dict[str, list[int]]:
        return {name: file.bytes.stamp() for name, file in self._weights.files.items()}

    def hash_contents(self, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
        """The SHA-256 of each weight file, by name. Reads every byte; `progress(done_bytes, total_bytes)`."""
        return hash_files(self._weights, progress)

    def close(self) -> None:
        self._weights.close()
