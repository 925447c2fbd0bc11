"""What a checkpoint is: named tensors that can be read by slice, a config, and side files."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from mergery.checkpoints.config import Config
from mergery.dtypes import DType

if TYPE_CHECKING:
    import numpy as np


class TensorInfo(NamedTuple):
    """A tensor's header: all that is known of it before its bytes are read."""

    name: str
    shape: tuple[int, ...]
    dtype: DType

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.bits // 8


class Contents(NamedTuple):
    """What a model's folder holds beside its config and the weights that are read.

    A folder stands for all in it, with `/` behind its name.
    """

    side: tuple[str, ...] = ()  # files that go with the model: see `Checkpoint.files`
    unread: tuple[str, ...] = ()  # weight files, or entries of one, left aside: copies in another form, counters
    training: tuple[str, ...] = ()  # state of its training
    unknown: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()  # folders whose weights are the checkpoint's tensors, under the folder's name
    stem: str = "model"  # what its weight files are called
    some: bool = False  # whether it has, on purpose, some tensors of a model alone


class Checkpoint(ABC):
    """Named tensors that are read lazily, by slice, plus `config` and side files.

    Opening one reads headers and small text files only. `label` is what messages call it.
    """

    label: str
    location: str

    @property
    @abstractmethod
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Headers by name, in the order of the files."""

    @abstractmethod
    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        """Fill `into` (uint8, exactly the range's bytes) with elements [start, stop) of the flattened tensor.

        Bytes are in the stored dtype, little-endian. Safe to call from several threads at once.
        Raises `CheckpointError` when the file ends early or the device fails.
        """

    def glance(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        """As `read`, also where the weights are not on this machine yet: for the few bytes on which a plan rests."""
        self.read(name, start, stop, into)

    @property
    def config(self) -> Config:
        """What `config.json` states; empty where the checkpoint has none (a single file, a state dict)."""
        return Config()

    @property
    def contents(self) -> Contents:
        """What stands beside the tensors that are read."""
        return Contents()

    @property
    def source(self) -> str:
        """All that it is read from, as a recipe would name it: `base+adapter`."""
        return self.location

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was done to its names, in words."""
        return ()

    @property
    def aliases(self) -> Mapping[str, str]:
        """Tensors that are another one, to the byte in the file: name by name of the one that stands for both."""
        return {}

    @property
    def kept(self) -> Mapping[str, TensorInfo]:
        """Headers with the dtypes that the output keeps: those of `tensors`, but where these are decoded."""
        return self.tensors

    @property
    def decoded(self) -> str:
        """How its weights are stored, where they are codes that are decoded as they are read: `GGUF, Q4_K`. Else empty."""
        return ""

    @property
    def lost(self) -> float:
        """About how far rounding to codes has moved its weights, as a share of their length; 0 for plain numbers."""
        return 0.0

    @property
    def smoothed(self) -> str:
        """What has moved scales from its matrices into what stands before them, as it was quantised: `AWQ`. Else empty."""
        return ""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of side files (tokenizer, generation config, chat template, licence), sorted; no weights."""
        return self.contents.side

    def file(self, name: str) -> bytes:
        """The content of one side file."""
        raise KeyError(name)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Bring the weights to this machine, if they are not on it yet. Called once the plan is sound.

        `progress(done_bytes, total_bytes)` is called now and then.
        """

    def fingerprint(self) -> dict[str, Any]:
        """What the lock file records to recognise this input again: commit, or sizes and hashes of headers."""
        return {"location": self.location}

    def stamp(self) -> dict[str, list[int]]:
        """What tells, without reading, that a file has changed: its size and time of change, by file name."""
        return {}

    def close(self) -> None:
        """Release file handles."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
