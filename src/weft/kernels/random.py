"""Keyed, counter-based randomness: the same number for the same (seed, tensor, model, element), on any machine.

The generator is SplitMix64 (Steele, Lea, Flood 2014) read at a counter: one 64-bit word serves two neighbouring
elements, 32 bits each, of which 24 become a float32 in [0, 1).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, device

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB


def key(seed: int, tensor: str, model: str) -> int:
    """The 64-bit key of one stream."""
    digest = hashlib.blake2b(f"{seed}\0{tensor}\0{model}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def uniform(stream: int, start: int, stop: int, place: device | None = None) -> Tensor:
    """Elements [start, stop) of a stream: float32 in [0, 1), shape (stop - start,), the same on every device."""
    import torch

    first = start // 2
    counter = torch.arange(first, (stop + 1) // 2, dtype=torch.int64, device=place)
    word = counter * _signed(GOLDEN) + _signed(stream)
    word = (word ^ _shift(word, 30)) * _signed(FIRST)
    word = (word ^ _shift(word, 27)) * _signed(SECOND)
    word = word ^ _shift(word, 31)
    halves = torch.stack((_shift(word, 40), _shift(word, 8) & 0xFFFFFF), dim=1).reshape(-1)
    return halves[start - 2 * first : stop - 2 * first].to(torch.float32) * 2.0**-24


def _signed(word: int) -> int:
    """An unsigned 64-bit constant as the int64 of the same bits: torch multiplies modulo 2**64 either way."""
    return word - 2**64 if word >= 2**63 else word


def _shift(word: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own shift of int64 copies the sign."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)
