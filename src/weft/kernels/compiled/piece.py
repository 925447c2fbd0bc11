"""What a compiled twin of a method's function is given, and what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

REMEMBERED = 16 << 20  # bytes of flags that a worker keeps from pass to pass


@dataclass(frozen=True)
class Piece:
    """Whole rows, or whole blocks, of a tensor. For `raw`, `codes` and `keys` see `weft.kernels`; row 0 is the base."""

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
        packed = self.memory.get(("flags", self.start, self.n))
        return None if packed is None else np.unpackbits(packed, axis=1, count=self.n)

    def remember(self, flags: np.ndarray) -> None:
        """Keep flags as bits for the passes that follow, while they take little memory."""
        used = self.memory.get("flags", 0) + flags.size // 8
        if used <= REMEMBERED:
            self.memory["flags", self.start, self.n] = np.packbits(flags, axis=1)
            self.memory["flags"] = used

    def singles(self, name: str) -> np.ndarray:
        """A per-model setting as float32 (k,)."""
        return np.array(self.known[name], np.float32)


@dataclass(frozen=True)
class Twin:
    """A compiled function with the meaning, and the bytes, of a function of a method.

    run:  of a method: `(piece, out, out_code)`, which writes base + result, rounded, as bytes; of what an ask sums:
          `(piece, sums)`, float64 (items, grains); of what an ask ranks: `(piece, values)`, float32 (items, n). Returns
          the status of `weft.kernels`.
    each: whether it gives one item for each model, rather than a single one.
    """

    run: Callable[..., int]
    each: bool = True
