"""A model with adapters on it, as one checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import Checkpoint, Contents, TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.file_kinds import ADAPTER
from mergery.dtypes import DType

if TYPE_CHECKING:
    import numpy as np

ROUNDINGS = ("once", "peft")
"""How a model with adapters is rounded: once, at the very end; or to the base's dtype, as peft's merge does."""


class NoModel(Checkpoint):
    """What stands for the base of adapters that are merged without it: no tensors, no files."""

    def __init__(self, label: str, stem: str = "model") -> None:
        self.label, self.location, self._contents = label, "zeros", Contents(stem=stem)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return {}

    @property
    def contents(self) -> Contents:
        return self._contents

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        raise KeyError(name)


class AdaptedCheckpoint(Checkpoint):
    """A base and the adapters on it. Names, shapes, config and side files are the base's. Weights cannot be read here: what the
    adapters make of the base's is a view, `mergery.views.adapters`. `dtype` is that of peft's roundings, where it is not the
    base's.
    """

    def __init__(
        self,
        base: Checkpoint,
        adapters: Sequence[Checkpoint],
        rounding: str = ROUNDINGS[0],
        dtype: DType | None = None,
    ) -> None:
        self.label, self.location = base.label, base.location
        if isinstance(base, AdaptedCheckpoint):  # adapters on a model that has some are further ones
            adapters, base = (*base.adapters, *adapters), base.base
        self.base, self.adapters, self.rounding, self.dtype = base, tuple(adapters), rounding, dtype
        if isinstance(base, NoModel) and adapters:
            self.location = "+".join(each.location for each in adapters)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.base.tensors

    @property
    def config(self) -> Config:
        return self.base.config

    @property
    def contents(self) -> Contents:
        return self.base.contents

    @property
    def aliases(self) -> Mapping[str, str]:
        return self.base.aliases

    def file(self, name: str) -> bytes:
        return self.base.file(name)

    @property
    def kept(self) -> Mapping[str, TensorInfo]:
        return self.base.kept

    @property
    def decoded(self) -> str:
        return self.base.decoded

    @property
    def smoothed(self) -> str:
        return self.base.smoothed

    @property
    def lost(self) -> float:
        return self.base.lost

    @property
    def source(self) -> str:
        return "+".join(each.location for each in stored_in(self)) or self.location

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        """Raises TypeError: what is stored is the base's, and what the adapters make of it is a view."""
        raise TypeError(f"the weights of {self.source} are a view: read those of its base, or mergery.views.adapters")

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(remark for each in (self.base, *self.adapters) for remark in each.remarks)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        for each in (self.base, *self.adapters):
            each.prepare(progress)

    def fingerprint(self) -> dict[str, Any]:
        marks = []
        for each in self.adapters:
            said = each.file(ADAPTER) if ADAPTER in each.files else b""
            own = {key: value for key, value in each.fingerprint().items() if key != "location"}
            marks.append({**own, "adapter_config_sha256": hashlib.sha256(said).hexdigest()})
        return {**self.base.fingerprint(), "adapters": marks, "rounding": self.rounding}

    def stamp(self) -> dict[str, list[int]]:
        marks = self.base.stamp()
        for number, each in enumerate(self.adapters, start=1):
            marks |= {f"adapter {number}: {name}": mark for name, mark in each.stamp().items()}
        return marks

    def close(self) -> None:
        for each in (self.base, *self.adapters):
            each.close()


def stored_in(checkpoint: Checkpoint) -> tuple[Checkpoint, ...]:
    """The checkpoints whose files are read: a base and the adapters on it, or the checkpoint itself."""
    parts = (checkpoint.base, *checkpoint.adapters) if isinstance(checkpoint, AdaptedCheckpoint) else (checkpoint,)
    return tuple(each for each in parts if not isinstance(each, NoModel))


def without_adapters(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint whose weights are stored: the base, where adapters are on it."""
    return checkpoint.base if isinstance(checkpoint, AdaptedCheckpoint) else checkpoint
