"""The numbers in a GGUF file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.errors import CheckpointError, Where


class Metadata:
    """A file's metadata, under the keys of its architecture. What has the wrong type is an error."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str, where: str) -> None:
        self.all, self.prefix, self.where = metadata, f"{architecture}.", where

    def get(self, key: str) -> int | float | None:
        """A number; a list of equal ones, one for each layer, is that number."""
        value = self.all.get(self.prefix + key)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            shown = f"it is {value!r:.60}"
            raise self.error(f"{self.prefix}{key} is no number that holds for every layer", shown)
        return shortest(value) if isinstance(value, float) else value

    def need(self, key: str) -> int | float:
        """A number without which there is no config."""
        value = self.get(key)
        if value is None:
            raise self.error(f"the metadata lacks {self.prefix}{key}", "the model's config cannot be made without it")
        return value

    def size(self, key: str, most: int = 1 << 40) -> int:
        """A whole number above zero."""
        value = self.need(key)
        if not isinstance(value, int) or not 0 < value <= most:
            raise self.error(f"{self.prefix}{key} is {value!r:.60}", "it should be a whole number above zero")
        return value

    def error(self, what: str, why: str) -> CheckpointError:
        """An error in the metadata."""
        return CheckpointError(
            what, where=Where(self.where), why=why, hint="convert the model again, or use its safetensors"
        )


def shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05, where the file has 9.99999974e-06."""
    import numpy as np

    return float(str(np.float32(value)))
