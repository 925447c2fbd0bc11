"""The expressions of a plan: each output tensor is a leaf (a tensor of a checkpoint), a weave of others of its shape,
a patchwork of ranges of others, or derived from others by a function.

A stage of a recipe is a `View`: named tensors and the node that makes each. A view costs nothing until a node is
evaluated, chunk by chunk, so a multi-stage recipe needs no intermediate folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from mergery.architecture import Architecture
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

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inputs[0].shape

    @property
    def elements(self) -> int:
        return self.inputs[0].elements

    @property
    def rows(self) -> tuple[Node, ...]:
        """The base, where there is one, and then the models."""
        return self.inputs if self.base is None else (self.base, *self.inputs)


@dataclass(frozen=True, slots=True, eq=False)
class Gathered:
    """A tensor sewn from ranges of elements of others, end to end: a part of a fused tensor, parts fused again, experts
    stacked, rows in the order of another vocabulary.

    Patch i takes `lengths[i]` elements from `starts[i]` on of the flattened `sources[which[i]]`; where `which[i]` is
    -1 it is zeros. The arrays are int64 of one length; the lengths add up to the tensor's elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    sources: tuple[Node, ...]
    which: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    def __post_init__(self) -> None:
        assert int(self.lengths.sum()) == self.elements, f"the patches of {self.name!r} do not fill its shape"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> tuple[Node, ...]:
        """What it is sewn from."""
        return self.sources


Read = Callable[[int, int], np.ndarray]  # elements [start, stop) of a tensor, as float32


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A small tensor that a function makes whole from others, read as it likes: the average of rows, rows for new tokens.

    `make` gets one reader for each source and returns float32 of the tensor's shape. It must not depend on threads.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[Node, ...]
    make: Callable[[Sequence[Read]], np.ndarray]
    what: str  # in words, such as "average of rows"
    memory: int = 0  # bytes that `make` holds at its worst
    torch: bool = False  # whether it needs torch
    dtype: DType = F32

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def rows(self) -> tuple[Node, ...]:
        """What it is made from."""
        return self.sources


Node = Stored | Merged | Gathered | Computed
Found = TypeVar("Found")


def gather(
    name: str, shape: tuple[int, ...], sources: Sequence[Node], which: np.ndarray, rows: np.ndarray, width: int
) -> Node:
    """A tensor of rows of others, `width` elements each: row i is `rows[i]` of `sources[which[i]]`; -1 is zeros."""
    which = np.asarray(which, dtype=np.int64)
    rows = np.where(which < 0, 0, np.asarray(rows, dtype=np.int64))
    follows = (which[1:] == which[:-1]) & ((which[1:] < 0) | (rows[1:] == rows[:-1] + 1))
    first = np.flatnonzero(np.concatenate(([True], ~follows)))
    lengths = np.diff(np.append(first, len(which)))
    used = sorted({int(number) for number in np.unique(which) if number >= 0})
    patches = np.full(len(sources) + 1, -1, dtype=np.int64)
    patches[used] = np.arange(len(used))
    kept = tuple(sources[number] for number in used)
    if len(first) == 1 and len(kept) == 1 and rows[0] == 0 and kept[0].shape == shape:
        return kept[0]
    dtypes = {node.dtype for node in kept}
    dtype = dtypes.pop() if len(dtypes) == 1 else F32
    return Gathered(name, shape, dtype, kept, patches[which[first]], rows[first] * width, lengths * width)


def from_ranges(name: str, shape: tuple[int, ...], patches: Sequence[tuple[Node | None, int, int]]) -> Node:
    """A tensor of ranges of others: (source, first element, number of elements) each; None is zeros.

    Ranges that go on where the last one ended are joined. One whole source of the same shape is returned as it is.
    """
    sources: dict[int, tuple[int, Node]] = {}
    joined: list[list[int]] = []
    for source, start, length in patches:
        number = -1
        if source is not None:
            number, _ = sources.setdefault(id(source), (len(sources), source))
        last = joined[-1] if joined else None
        if last and last[0] == number and (number < 0 or last[1] + last[2] == start):
            last[2] += length
        else:
            joined.append([number, start if number >= 0 else 0, length])
    nodes = tuple(source for _, source in sources.values())
    if len(joined) == 1 and len(nodes) == 1 and nodes[0].shape == shape and joined[0][1:] == [0, nodes[0].elements]:
        return nodes[0]
    dtypes = {node.dtype for node in nodes}
    dtype = dtypes.pop() if len(dtypes) == 1 else F32
    which, starts, lengths = np.array(joined, dtype=np.int64).reshape(-1, 3).T
    return Gathered(name, shape, dtype, nodes, which, starts, lengths)


def looked_up(names: Collection[str], table: Mapping[str, Found]) -> Iterable[Found | None]:
    """What a table holds under each name, in the order of the names: looked up only where that is not the table's own."""
    return table.values() if list(names) == list(table) else map(table.get, names)


def leaves(node: Node) -> list[Stored]:
    """All stored tensors under a node."""
    if isinstance(node, Stored):
        return [node]
    found: list[Stored] = []
    for row in node.rows:  # there may be half a million
        if isinstance(row, Stored):
            found.append(row)
        else:
            found += leaves(row)
    return found


@dataclass(frozen=True)
class View:
    """Named tensors, each made by a node; what a stage of a recipe is to the next."""

    name: str
    nodes: Mapping[str, Node]
    architecture: Architecture
    config: dict[str, Any] | None
    donor: Checkpoint
    dropped: Mapping[str, str] = field(default_factory=dict)  # tensor name -> reason
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """What was done to the shape of a model, and what that loses: nothing, where the model computes what it did."""

    model: str
    what: str
    loss: str = ""


def is_computed(node: Node) -> bool:
    """Whether any arithmetic is done to make a node."""
    return isinstance(node, (Merged, Computed)) or (isinstance(node, Gathered) and any(map(is_computed, node.sources)))


def kind_key(node: Node) -> tuple[Any, ...]:
    """Equal for nodes that are described in the same words and cost the same to make: there may be 100,000 of them, of few
    kinds."""
    if isinstance(node, Stored):
        return node.model, node.info.shape, node.info.dtype.name
    if isinstance(node, Merged):
        base = None if node.base is None else kind_key(node.base)
        rows = [row.info.dtype.name if isinstance(row, Stored) else kind_key(row) for row in node.inputs]
        return id(node.settings), node.merge, node.models, node.matrices, node.shape, base, *rows
    rows = [kind_key(row) for row in node.rows]
    if isinstance(node, Gathered):
        return "sewn", node.shape, len(node.lengths), *rows
    return node.what, node.shape, node.memory, node.torch, *rows


def leaf_columns(alike: Sequence[Node]) -> Iterator[Sequence[Stored]]:
    """The stored tensors under nodes of one likeness, place by place: each column is of one shape and dtype."""
    if isinstance(alike[0], Stored):
        yield cast("Sequence[Stored]", alike)
    else:
        for column in zip(*[node.rows for node in alike if not isinstance(node, Stored)], strict=True):
            yield from leaf_columns(column)


def merged_by(merge: int, nodes: Iterable[Node]) -> list[Merged]:
    """The weaves that a merge made, under the nodes that it gave; below them are those of merges before it."""
    found: dict[int, Merged] = {}
    for node in nodes:
        if isinstance(node, Merged) and node.merge == merge:
            found[id(node)] = node
        elif not isinstance(node, Stored):
            found.update((id(node), node) for node in merged_by(merge, node.rows))
    return list(found.values())


def computed_below(node: Node) -> Iterator[Computed]:
    """All derived tensors under a node."""
    if isinstance(node, Computed):
        yield node
    if not isinstance(node, Stored):
        for row in node.rows:
            if not isinstance(row, Stored):
                yield from computed_below(row)


def merges_below(nodes: Iterable[Node]) -> dict[int, list[Merged]]:
    """All weaves under some nodes by the merge that made them, inner merges first."""
    found: dict[int, dict[int, Merged]] = {}

    def visit(nodes: Iterable[Node]) -> None:
        for node in nodes:
            if not isinstance(node, Stored):
                visit(node.rows)
            if isinstance(node, Merged):
                found.setdefault(node.merge, {})[id(node)] = node

    visit(nodes)
    return {merge: list(found[merge].values()) for merge in sorted(found)}
