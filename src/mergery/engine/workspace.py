"""One worker's memory, and what all workers share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mergery.engine.held import Held
from mergery.kernels.devices import CPU, Device

CHUNK = 1 << 19  # elements of a window
TENSORS = 1 << 18  # elements on which torch works at once, with many temporary tensors
STAGE = 96 << 20  # bytes of a window of what other merges made, which is read several times
KEPT = 24 << 20  # bytes of a tensor's inputs that a worker keeps from one pass over them to the next


def windows(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of `size` elements, the last of what is left."""
    for start in range(0, n, size):
        yield start, min(n, start + size)


@dataclass
class Shared:
    """What all workers share: the seed, sizes, and statistics of whole models by (merge, method.parameter).

    `alone` says that a tensor is all there is of its model; `held` are inputs that stay in memory from run to run.
    """

    seed: int = 0
    statistics: dict[tuple[int, str], Any] = field(default_factory=dict)
    chunk: int = CHUNK
    stage: int = STAGE
    alone: bool = False
    held: Held | None = None


class Kept:
    """The first windows of a tensor that is read several times, as far as there is room."""

    def __init__(self, owner: object, room: np.ndarray) -> None:
        self.owner, self._room, self._used = owner, room, 0
        self.windows: dict[tuple[int, int], np.ndarray] = {}

    def place(self, count: int, nbytes: int) -> np.ndarray | None:
        """uint8 (count, at least nbytes), contiguous, that nothing has been given before; None where there is no room."""
        nbytes = -(-nbytes // 64) * 64
        start, self._used = self._used, self._used + count * nbytes
        return self._room[start : self._used].reshape(count, nbytes) if self._used <= self._room.size else None


class Workspace:
    """One worker's buffers, kept from tensor to tensor, and the device that computes on them."""

    def __init__(self, device: Device = CPU) -> None:
        self.device = device
        self._rows: dict[tuple[int, str], np.ndarray] = {}
        self._kept: dict[int, Kept] = {}

    @cached_property
    def kernels(self) -> Any:
        """The kernels of this worker's device: see `mergery.kernels`."""
        return self.device.kernels()

    def rows(self, level: int, purpose: str, count: int, nbytes: int) -> np.ndarray:
        """uint8 (count, at least nbytes), contiguous; contents are undefined. One for each level and purpose."""
        nbytes = -(-nbytes // 64) * 64
        have = self._rows.get((level, purpose))
        if have is None or have.size < count * nbytes:
            have = self.device.empty(count * nbytes)
            self._rows[level, purpose] = have
        return have[: count * nbytes].reshape(count, nbytes)

    def kept(self, level: int, owner: object) -> Kept:
        """What a reader keeps from pass to pass. There is one room for each level: what another reader kept is gone."""
        have = self._kept.get(level)
        if have is None or have.owner is not owner:
            have = self._kept[level] = Kept(owner, self.row(level, "kept", KEPT))
        return have

    def row(self, level: int, purpose: str, nbytes: int) -> np.ndarray:
        """uint8 (nbytes,)."""
        return self.rows(level, purpose, 1, nbytes)[0, :nbytes]
