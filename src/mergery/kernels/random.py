"""Keyed, counter-based randomness: the same number for the same (seed, tensor, model, element), on any machine.

An element's number is a 32-bit hash of its index under the stream's 64-bit key: the three rounds of triple32 (Wellons
2018, the least biased known of their kind), with the key's lower 32 bits added to the index and the upper ones mixed in after
the first multiplication. All is 32-bit arithmetic, which processors do for many elements at once. The upper 24 bits become a
float32 in [0, 1).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, device

FIRST, SECOND, THIRD = 0xED5AD4BB, 0xAC4C1B51, 0x31848BAB
FAR = 0x9E3779B9  # mixed in once more for each 2**32 elements
_WORD = 0xFFFFFFFF


def key(seed: int, tensor: str, model: str) -> int:
    """The 64-bit key of one stream."""
    digest = hashlib.blake2b(f"{seed}\0{tensor}\0{model}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def uniform(stream: int, start: int, stop: int, place: device | None = None) -> Tensor:
    """Elements [start, stop) of a stream: float32 in [0, 1), shape (stop - start,), the same on every device."""
    import torch

    index = torch.arange(start, stop, dtype=torch.int64, device=place)
    word = (index + (stream & _WORD)) & _WORD  # words are 32 bits wide, in int64
    word = (word ^ (word >> 17)) * FIRST & _WORD
    word = word ^ ((index >> 32) * FAR + (stream >> 32)) & _WORD
    word = (word ^ (word >> 11)) * SECOND & _WORD
    word = (word ^ (word >> 15)) * THIRD & _WORD
    word = word ^ (word >> 14)
    return (word >> 8).to(torch.float32) * 2.0**-24


class KeyedUniform:
    """What a method's `Random` gives: `uniform(i)`, a number in [0, 1) for each element of one piece of a tensor.

    keys:  of the models' streams.
    shape: of the piece as it is stored, whose first element has the index `start` in the tensor.
    place: the device; None is the processor.
    view:  from the piece as it is stored to how the method sees it.
    """

    def __init__(
        self,
        keys: Sequence[int] | np.ndarray,
        shape: Sequence[int],
        *,
        start: int = 0,
        place: device | None = None,
        view: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._keys, self._shape, self._start, self._place, self._view = keys, tuple(shape), start, place, view

    def uniform(self, model: int) -> Tensor:
        """float32 in [0, 1), of the piece's shape."""
        stop = self._start + math.prod(self._shape)
        stored = uniform(int(self._keys[model]), self._start, stop, self._place).reshape(self._shape)
        return stored if self._view is None else self._view(stored)
