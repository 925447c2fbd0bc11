"""What a compiled version of a method's function is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PLAIN = 9 << 20  # bytes of flags that a worker keeps as they are from pass to pass; more of them, as bits
REMEMBERED = 20 << 20  # bytes of both


@dataclass(frozen=True)
class Piece:
    """Whole rows, or whole blocks, of a tensor. For `raw`, `codes` and `keys` see `mergery.kernels`; row 0 is the base."""

    raw: np.ndarray
    codes: np.ndarray
    n: int
    start: int  # the first element's index in the tensor
    columns: int  # elements of a row of the tensor
    grain: int  # elements over which a sum is given
    keys: np.ndarray
    known: Mapping[str, Any]  # settings, and answers to asks, by name
    memory: dict[Any, Any] = field(default_factory=dict)  # kept from piece to piece of one tensor

    @property
    def k(self) -> int:
        return self.codes.size - 1

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` gives, which is kept until it is asked for another piece: several asks can share it."""
        place = (self.start, self.n)
        kept = self.memory.get(name)
        if kept is None or kept[0] != place:
            kept = self.memory[name] = (place, find())
        return kept[1]

    def recall(self) -> np.ndarray | None:
        """The flags, uint8 (rows, n), that an earlier pass found for this piece, if they were remembered."""
        packed, flags = self.memory.get(("flags", self.start, self.n), (False, None))
        return np.unpackbits(flags, axis=1, count=self.n) if packed else flags

    def remember(self, flags: np.ndarray) -> None:
        """Keep flags for the passes that follow, while they take little memory."""
        used = self.memory.get("flags", 0)
        packed = used + flags.size > PLAIN
        flags = np.packbits(flags, axis=1) if packed else flags
        if used + flags.size <= REMEMBERED:
            self.memory["flags", self.start, self.n] = packed, flags
            self.memory["flags"] = used + flags.size

    def singles(self, name: str) -> np.ndarray:
        """A per-model setting as float32 (k,)."""
        return np.array(self.known[name], np.float32)
