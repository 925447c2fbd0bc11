"""Each layout of quantised weights as a tensor of float32, by slice, with the formulas of the libraries that write them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.quantised.numbers import FP4, FP6, LOST, NUMPY, as_float32, integers, lost_by, nibbles

if TYPE_CHECKING:
    import numpy as np


class Stored:
    """The tensors of a quantised checkpoint, as arrays."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.tensors = checkpoint.tensors

    def raw(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) in their own dtype; eight-bit floats as bytes, bfloat16 as words."""
        import numpy as np

        info = self.tensors[name]
        data = np.empty((stop - start) * info.dtype.itemsize, np.uint8)
        self.checkpoint.read(name, start, stop, data)
        return data.view(NUMPY.get(info.dtype.name, "u1"))

    def rows(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows of a tensor, as it is stored."""
        shape = self.tensors[name].shape
        width = self.tensors[name].elements // shape[0]
        return self.raw(name, first * width, last * width).reshape(last - first, *shape[1:])

    def lines(self, name: str, first: int, last: int) -> np.ndarray:
        """Rows along the last side, those of all matrices of a stack counted through, as they are stored."""
        width = self.tensors[name].shape[-1]
        return self.raw(name, first * width, last * width).reshape(last - first, width)

    def floats(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) as float32."""
        import numpy as np

        return as_float32(self.raw(name, start, stop).view(np.uint8), self.tensors[name].dtype.name)

    def all(self, name: str) -> np.ndarray:
        """A small tensor whole, as float32 in its shape."""
        info = self.tensors[name]
        return self.floats(name, 0, info.elements).reshape(info.shape)


@dataclass(frozen=True)
class Decoder(ABC):
    """A tensor that codes stand for. `uses` are the stored tensors that it is made of, or that say nothing else."""

    info: TensorInfo
    uses: tuple[str, ...]

    @property
    def lost(self) -> float:
        """About how far rounding has moved its numbers, as a share of their length."""
        return lost_by(8)

    @abstractmethod
    def decode(self, stored: Stored, start: int, stop: int) -> np.ndarray:
        """Elements [start, stop) of the flattened tensor, as float32."""


@dataclass(frozen=True)
class FourBits(Decoder):
    """bitsandbytes' NF4 and FP4 (Dettmers et al. 2023, arXiv 2305.14314): the high half of a byte first, and an absolute
    maximum for each block, which may be quantised itself.
    """

    weight: str
    block: int
    nested: int  # elements of a block of maxima; 0 where these are plain
    offset: float

    @property
    def lost(self) -> float:
        """See `Decoder.lost`."""
        return LOST["nf4"]

    def decode(self, stored: Stored, start: int, stop: int) -> np.ndarray:
        """See `Decoder.decode`."""
        import numpy as np

        first, last = start // self.block, -(-stop // self.block)
        low = first * self.block
        high = min(last * self.block, self.info.elements)
        codes = nibbles(stored.raw(self.weight, low // 2, -(-high // 2)), high_first=True)[: high - low]
        values = stored.all(f"{self.weight}.quant_map").reshape(-1)[codes]
        scales = np.repeat(self.maxima(stored, first, last), self.block)[: high - low]
        return (values * scales)[start - low : stop - low]

    def maxima(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """The absolute maxima of blocks [first, last)."""
        name = f"{self.weight}.absmax"
        if not self.nested:
            return stored.floats(name, first, last)
        codes = stored.raw(name, first, last)
        low = first // self.nested
        outer = stored.floats(f"{self.weight}.nested_absmax", low, -(-last // self.nested))
        which = (first + _range(len(codes))) // self.nested - low
        return stored.all(f"{self.weight}.nested_quant_map").reshape(-1)[codes] * outer[which] + _float32(self.offset)


@dataclass(frozen=True)
class Rows(Decoder):
    """A matrix that is decoded by whole rows, or a stack of such, whose rows are counted through."""

    def decode(self, stored: Stored, start: int, stop: int) -> np.ndarray:
        """See `Decoder.decode`."""
        width = self.info.shape[-1]
        first, last = start // width, -(-stop // width)
        rows = self.rows(stored, first, last).reshape(-1)
        return rows[start - first * width : stop - first * width]

    @abstractmethod
    def rows(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """Rows [first, last) as float32."""


@dataclass(frozen=True)
class Int8(Rows):
    """bitsandbytes' int8 (Dettmers et al. 2022, arXiv 2208.07339): a maximum for each row stands for 127."""

    weight: str
    scales: str

    def rows(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """See `Rows.rows`."""
        codes = stored.rows(self.weight, first, last).astype("f4")
        return (
            codes * stored.floats(self.scales, first, last)[:, None] * _float32(0.007874015718698502)
        )  # 1 / 127, as there


@dataclass(frozen=True)
class Scales:
    """A grid of scales over a matrix: one number, one for each row, groups along rows, or blocks.

    `block` is the rows and columns that share one. `columns` names what sorts columns into groups, where that is no order.
    """

    name: str
    block: tuple[int, int]
    columns: str | None = None
    overall: str | None = None  # a number by which all are divided

    def rows(self, stored: Stored, first: int, last: int, width: int) -> np.ndarray:
        """The scales of rows [first, last), for each element."""
        return self.spread(stored, self.taken(stored, first, last), width)

    def taken(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """The scales that rows [first, last) have, one row for each."""
        tall = self.block[0]
        info = stored.tensors[self.name]
        count = info.shape[-1] if len(info.shape) > 1 else 1
        low, high = first // tall, (last - 1) // tall + 1
        found = stored.floats(self.name, low * count, high * count).reshape(-1, count)
        if info.dtype.name == "U8":  # exponents of two
            found = as_float32(found.astype("u1"), "F8_E8M0")
        if self.overall:
            found = found / stored.all(self.overall).reshape(-1)[0]
        return found[(first + _range(last - first)) // tall - low]

    def spread(self, stored: Stored, taken: np.ndarray, width: int) -> np.ndarray:
        """Numbers of groups for each column."""
        if taken.shape[1] == 1:
            return taken
        if self.columns:
            return taken[:, stored.raw(self.columns, 0, width)]
        return taken.repeat(self.block[1], axis=1)[:, :width]


@dataclass(frozen=True)
class Scaled(Rows):
    """Integers or floats of eight bits times scales, less zero points: compressed-tensors, DeepSeek's FP8, or floats alone."""

    weight: str
    scales: Scales | None = None
    zeros: str | None = None
    floats: bool = False

    @property
    def lost(self) -> float:
        """See `Decoder.lost`."""
        return LOST["e4m3"] if self.floats else lost_by(8)

    def rows(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """See `Rows.rows`."""
        width = self.info.shape[-1]
        values = stored.floats(self.weight, first * width, last * width).reshape(-1, width)
        if self.scales is None:
            return values
        if self.zeros is not None:
            zeros = Scales(self.zeros, self.scales.block, self.scales.columns)
            values = values - zeros.rows(stored, first, last, width)
        return values * self.scales.rows(stored, first, last, width)


@dataclass(frozen=True)
class Packed(Rows):
    """compressed-tensors' `pack-quantized`: integers in words along rows, with zero points packed along columns."""

    weight: str
    scales: Scales
    bits: int
    zeros: str | None = None

    @property
    def lost(self) -> float:
        """See `Decoder.lost`."""
        return lost_by(self.bits)

    def rows(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """See `Rows.rows`."""
        import numpy as np

        width, middle = self.info.shape[-1], 1 << (self.bits - 1)
        codes = integers(stored.lines(self.weight, first, last), self.bits)[:, :width].astype(np.float32) - middle
        if self.zeros is not None:
            each = 32 // self.bits
            low = first // each
            words = stored.lines(self.zeros, low, (last - 1) // each + 1)
            zeros = integers(words.T, self.bits).T[first - low * each : last - low * each].astype(np.float32) - middle
            codes = codes - self.scales.spread(stored, zeros, width)
        return codes * self.scales.rows(stored, first, last, width)


@dataclass(frozen=True)
class Fours(Rows):
    """Floats of four bits (e2m1), two in a byte, the low half first, times scales: NVFP4 and MXFP4 of compressed-tensors."""

    weight: str
    scales: Scales

    @property
    def lost(self) -> float:
        """See `Decoder.lost`."""
        return LOST["e2m1"]

    def rows(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """See `Rows.rows`."""
        import numpy as np

        width = self.info.shape[-1]
        codes = nibbles(stored.lines(self.weight, first, last))[:, :width]
        return np.array(FP4, np.float32)[codes] * self.scales.rows(stored, first, last, width)


@dataclass(frozen=True)
class Sixes(Rows):
    """Floats of six bits (e2m3), four in three bytes, the lowest bits first, times scales: MXFP6 of compressed-tensors."""

    weight: str
    scales: Scales

    @property
    def lost(self) -> float:
        """See `Decoder.lost`."""
        return LOST["e2m3"]

    def rows(self, stored: Stored, first: int, last: int) -> np.ndarray:
        """See `Rows.rows`."""
        import numpy as np

        width = self.info.shape[-1]
        three = stored.lines(self.weight, first, last).reshape(last - first, -1, 3).astype(np.uint32)
        word = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
        codes = (word[..., None] >> np.arange(0, 24, 6, dtype=np.uint32) & 63).reshape(last - first, width)
        return np.array(FP6, np.float32)[codes] * self.scales.rows(stored, first, last, width)


def _range(count: int) -> np.ndarray:
    import numpy as np

    return np.arange(count)


def _float32(value: float) -> Any:
    import numpy as np

    return np.float32(value)
