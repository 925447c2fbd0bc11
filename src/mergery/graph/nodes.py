"""How an output tensor comes to be: a node is stored in a checkpoint, merged of others of its shape, gathered from ranges of
others, or computed from others by a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.dtypes import F32, DType
from mergery.method import Method


@dataclass(slots=True, eq=False)  # frozen ones take three times as long to make, and there may be half a million
class Stored:
    """A stored tensor."""

    model: str
    checkpoint: Checkpoint
    info: TensorInfo

    @property
    def shape(self) -> tuple[int, ...]:
        return self.info.shape

    @property
    def dtype(self) -> DType:
        return self.info.dtype

    @property
    def elements(self) -> int:
        return self.info.elements

    @property
    def rows(self) -> tuple[Node, ...]:
        """What it is made of: nothing else."""
        return ()


MATRICES_AT_ONCE = 1 << 18  # elements of small matrices of one tensor that are merged in one call


@dataclass(frozen=True, slots=True)
class Matrices:
    """How a tensor is read as matrices [out, in]: so many, one behind the other, stored in rows and columns; `transposed`
    where the rows are inputs.
    """

    count: int
    rows: int
    columns: int
    transposed: bool = False

    @property
    def together(self) -> int:
        """How many are merged in one call: fixed by their shape alone, as are the bytes of the result."""
        return max(1, min(self.count, MATRICES_AT_ONCE // max(1, self.rows * self.columns)))

    @property
    def sides(self) -> tuple[int, int]:
        """Outputs and inputs."""
        return (self.columns, self.rows) if self.transposed else (self.rows, self.columns)


def read_matrices(shape: tuple[int, ...], *, conv: bool = False, transposed: bool = False) -> Matrices | None:
    """Three dimensions are a stack of matrices, unless they are a convolution's; more are one kernel (out, in x ...)."""
    if len(shape) < 2:
        return None
    if len(shape) > 3 or (conv and len(shape) == 3):
        return Matrices(1, shape[0], math.prod(shape[1:]))
    return Matrices(1 if len(shape) == 2 else shape[0], shape[-2], shape[-1], transposed)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A statistic of each model that a merge asks for: a node for each, times a number that makes a mean of a sum.

    `aligned` ones have the shape of the merged tensor, and are read with it, window by window; of others there is one for each
    matrix.
    """

    kind: str
    nodes: tuple[Node, ...]
    factors: tuple[float, ...]
    aligned: bool


@dataclass(slots=True, eq=False)
class Merged:
    """A method over nodes of one shape. `models` names them; `settings` are resolved for this tensor."""

    method: Method
    name: str  # the tensor's name in the output: part of the key of its randomness
    models: tuple[str, ...]
    inputs: tuple[Node, ...]
    base: Node | None
    settings: Mapping[str, Any]
    dtype: DType
    merge: int  # which merge of the recipe made it: tensors of one merge share model-wide statistics
    matrices: Matrices | None = None  # of a method on matrices
    statistics: tuple[Measured, ...] = ()  # that the method asks for, aligned ones first

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inputs[0].shape

    @property
    def elements(self) -> int:
        return self.inputs[0].elements

    @property
    def vectors(self) -> tuple[Node, ...]:
        """The base, where there is one, and then the models."""
        return self.inputs if self.base is None else (self.base, *self.inputs)

    @property
    def aligned(self) -> tuple[Node, ...]:
        """All that is read window by window: the vectors, and statistics of their shape."""
        return (*self.vectors, *(node for each in self.statistics if each.aligned for node in each.nodes))

    @property
    def rows(self) -> tuple[Node, ...]:
        """All that it is made of: the vectors, and statistics."""
        if not self.statistics:
            return self.vectors
        return (*self.vectors, *(node for each in self.statistics for node in each.nodes))


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """A tensor of ranges of elements of others, end to end: a part of a fused tensor, parts fused again, experts stacked,
    rows in the order of another vocabulary.

    Range i is `lengths[i]` elements from `starts[i]` on of the flattened `sources[which[i]]`; where `which[i]` is -1 it is
    zeros. The arrays are int64 of one length; the lengths add up to the tensor's elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    sources: tuple[Node, ...]
    which: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __post_init__(self) -> None:
        assert int(self.lengths.sum()) == self.elements, f"the ranges of {self.name!r} do not fill its shape"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> tuple[Node, ...]:
        """What it is gathered from."""
        return self.sources


Read = Callable[[int, int], np.ndarray]  # elements [start, stop) of a tensor, as float32
Fill = Callable[[int, int, np.ndarray], None]  # writes elements [start, stop) of a tensor into an array of so many


class OfExperts(NamedTuple):
    """Which of the products of `of` experts, in two factors for all, a tensor has: that of one, or all; of those outputs."""

    of: int
    number: int | None = None
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """A product that a computed tensor adds to its base: `scale` times left [out, r] times right [r, in].

    These are an adapter's B and A, as adapters store them. `alpha`, where there is one, is a scalar tensor by which the
    scale is multiplied. Where the base is stored [in, out], it is the product's transpose that is added. Of experts, left is
    [out, r x experts] and right [experts x r, in]: expert e has the rows of right from e x r on, and each experts-th column of
    left from e on.
    """

    left: Node
    right: Node
    scale: float
    alpha: Node | None = None
    transposed: bool = False
    experts: OfExperts | None = None

    @property
    def rank(self) -> int:
        """Of one matrix."""
        return self.left.shape[1] // (self.experts.of if self.experts else 1)


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A tensor that a function makes from others, read as it likes: an adapter on its base, the average of rows.

    `make` gets one `Read` for each source, once, and returns the `Read` of the tensor itself. It must not depend on threads,
    and no element may depend on the window in which it is read. A `streamed` one reads of its sources, window by window, what
    it is asked for; others may read anything before the first window. `base` and `low_rank` are for those who want the
    factors: the tensor is the base with these products added to it. One that only changes
    places and signs of its source's elements has a `move` besides: what that reads and fills are unsigned integers, the bits
    of the dtype that is asked for, whichever that is.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[Node, ...]
    make: Callable[[Sequence[Read]], Read]
    what: str  # in words, such as "average of rows"
    memory: int = 0  # bytes that it holds at its worst, beside what its sources hold
    per_element: int = 0  # further bytes for each element of a window
    torch: bool = False  # whether it needs torch
    streamed: bool = False
    dtype: DType = F32
    base: Node | None = None
    low_rank: tuple[LowRank, ...] = ()
    move: Callable[[Sequence[Read]], Fill] | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> tuple[Node, ...]:
        """What it is made from."""
        return self.sources


def made_whole(
    name: str,
    shape: tuple[int, ...],
    sources: tuple[Node, ...],
    make: Callable[[Sequence[Read]], np.ndarray],
    what: str,
    memory: int = 0,
    *,
    torch: bool = False,
) -> Computed:
    """A small tensor that a function makes whole, and that is held while windows are taken of it.

    `make` gets one `Read` for each source and returns float32 of the tensor's shape; `memory` is what it holds besides.
    """

    def read(reads: Sequence[Read]) -> Read:
        values = np.ascontiguousarray(make(reads), dtype=np.float32).reshape(-1)
        assert values.size == math.prod(shape), f"{name!r} was made with another size"
        return lambda start, stop: values[start:stop]

    return Computed(name, shape, sources, read, what, memory + math.prod(shape) * F32.itemsize, torch=torch)


Node = Stored | Merged | Gathered | Computed
