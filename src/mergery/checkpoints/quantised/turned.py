"""Layouts whose words run down the columns, or in which matrices stand turned: what is needed is read whole, turned, and kept
by each thread until it decodes another.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.quantised.decoders import Decoder, Rows, Stored
from mergery.checkpoints.quantised.numbers import FP4, LOST, as_float32, integers, lost_by, nibbles

if TYPE_CHECKING:
    import numpy as np

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column of eight that each nibble of a word is, lowest first


class Kept(threading.local):
    """The one thing that a thread needs again and again, under its name."""

    name: Any = None
    value: Any = None


@dataclass(frozen=True)
class Gptq(Rows):
    """GPTQ (Frantar et al. 2023, arXiv 2210.17323), whose words run down the columns: a matrix's words are read whole, turned,
    and kept by each thread until it decodes another. `one` is what is added to zero points: 1 in the first format.
    """

    stem: str
    bits: int
    groups: str | None  # which group each column is of; None: in order
    size: int  # columns of a group
    one: int
    kept: Kept

    @property
    def lost(self) -> float:
        """See `Decoder.lost`."""
        return lost_by(self.bits)

    def rows(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """See `Rows.rows`."""
        import numpy as np

        words, zeros, scales, group = self._turned(stored)
        width = self.info.shape[1]
        codes = integers(words[first:last], self.bits)[:, :width].astype(np.float32)
        return (codes - zeros[first:last][:, group]) * scales[first:last][:, group]

    def _turned(self, stored: Stored) -> tuple[np.ndarray, ...]:
        import numpy as np

        if self.kept.name != (id(stored), self.stem):
            height, width = self.info.shape
            info = stored.tensors[f"{self.stem}.qweight"]
            words = stored.rows(info.name, 0, info.shape[0]).T
            packed = stored.tensors[f"{self.stem}.qzeros"]
            zeros = (
                integers(stored.rows(packed.name, 0, packed.shape[0]), self.bits)[:, :height].T.astype(np.float32)
                + self.one
            )
            scales = stored.all(f"{self.stem}.scales").T
            group = np.arange(width) // self.size if self.groups is None else stored.raw(self.groups, 0, width)
            self.kept.value = (
                np.ascontiguousarray(words),
                np.ascontiguousarray(zeros),
                np.ascontiguousarray(scales),
                group,
            )
            self.kept.name = (id(stored), self.stem)
        return self.kept.value


@dataclass(frozen=True)
class Awq(Rows):
    """AWQ (Lin et al. 2024, arXiv 2306.00978) as AutoAWQ stores it: words [in, out / 8], and with each scale a zero point."""

    stem: str
    size: int  # inputs of a group
    kept: Kept

    @property
    def lost(self) -> float:
        """See `Decoder.lost`."""
        return lost_by(4)

    def rows(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """See `Rows.rows`."""
        import numpy as np

        codes, zeros, scales = self._turned(stored)
        group = np.arange(self.info.shape[1]) // self.size
        numbers = codes[first:last].astype(np.float32)
        return (numbers - zeros[first:last][:, group]) * scales[first:last][:, group]

    def _turned(self, stored: Stored) -> tuple[np.ndarray, ...]:
        import numpy as np

        if self.kept.name != (id(stored), self.stem):
            parts = [stored.tensors[f"{self.stem}.{part}"] for part in ("qweight", "qzeros")]
            codes, zeros = (_unfolded(stored.rows(each.name, 0, each.shape[0])) for each in parts)
            scales = stored.all(f"{self.stem}.scales")
            turned = (np.ascontiguousarray(each.T) for each in (codes, zeros.astype(np.float32), scales))
            self.kept.name, self.kept.value = (id(stored), self.stem), tuple(turned)
        return self.kept.value


def _unfolded(words: np.ndarray) -> np.ndarray:
    """Codes of four bits, in order, of words in AWQ's."""
    import numpy as np

    found = np.empty((*words.shape, 8), np.uint8)
    found[..., AWQ_ORDER] = nibbles(np.ascontiguousarray(words).view(np.uint8)).reshape(*words.shape, 8)
    return found.reshape(len(words), -1)


@dataclass(frozen=True)
class Experts(Decoder):
    """GPT-OSS's experts in MXFP4: [experts, out, blocks, 16 bytes], the low half of a byte first, which stand for
    [experts, in, out]. The codes of an expert are read whole, and kept by each thread until it decodes another.
    """

    blocks: str
    scales: str
    kept: Kept

    @property
    def lost(self) -> float:
        """See `Decoder.lost`."""
        return LOST["e2m1"]

    def decode(self, stored: Stored, start: int, stop: int) -> np.ndarray:
        """See `Decoder.decode`."""
        import numpy as np

        _, inputs, outputs = self.info.shape
        first, last = start // outputs, -(-stop // outputs)  # rows of all experts
        found = np.empty((last - first, outputs), np.float32)
        row = first
        while row < last:
            expert, inside = divmod(row, inputs)
            end = min(last - expert * inputs, inputs)
            codes, scales = self._expert(stored, expert)
            low, high = inside // 32, -(-end // 32)
            values = np.array(FP4, np.float32)[nibbles(codes[:, low:high])] * scales[:, low:high, None]
            taken = values.reshape(outputs, -1).T[inside - low * 32 : end - low * 32]
            found[row - first : row - first + len(taken)] = taken
            row += len(taken)
        return found.reshape(-1)[start - first * outputs : stop - first * outputs]

    def _expert(self, stored: Stored, expert: int) -> tuple[np.ndarray, np.ndarray]:
        if self.kept.name != (id(stored), self.blocks, expert):
            codes = stored.rows(self.blocks, expert, expert + 1)[0]
            scales = as_float32(stored.rows(self.scales, expert, expert + 1)[0], "F8_E8M0")
            self.kept.name, self.kept.value = (id(stored), self.blocks, expert), (codes, scales)
        return self.kept.value
