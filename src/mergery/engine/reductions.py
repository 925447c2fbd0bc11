"""Streaming reductions over one tensor: inner products, order statistics, norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mergery.dtypes import F32
from mergery.engine.ranks import Ranks, largest
from mergery.engine.reader import Reader
from mergery.graph.ranks import ranks_of
from mergery.kernels import BLOCK, LANES, kernels
from mergery.method import Largest

SORTED_UP_TO = 1 << 14  # elements: smaller tensors are sorted, which costs less than counting


def gram(reader: Reader) -> np.ndarray:
    """Inner products of the models, or of their deltas: float64 (k, k)."""
    partials = [np.zeros((0, reader.k, reader.k))]
    for start, stop in reader.windows():
        raw = reader.load(start, stop)
        blocks = np.zeros((-(-(stop - start) // BLOCK), reader.k, reader.k))
        reader.check(reader.workspace.kernels.gram(raw, reader.codes, stop - start, reader.deltas, blocks), F32)
        partials.append(blocks)
    stacked = np.concatenate(partials)
    return np.array([[math.fsum(stacked[:, i, j]) for j in range(reader.k)] for i in range(reader.k)])


def l1_norms(reader: Reader, keys: np.ndarray, thinning: tuple[Any, ...]) -> tuple[list[float], list[float]]:
    """L1 norms of the deltas before and after thinning."""
    partials = [np.zeros((0, reader.k, 2))]
    for start, stop in reader.windows():
        raw = reader.load(start, stop)
        blocks = np.zeros((-(-(stop - start) // BLOCK), reader.k, 2))
        reader.check(
            reader.workspace.kernels.l1_norms(raw, reader.codes, stop - start, start, keys, *thinning, blocks), F32
        )
        partials.append(blocks)
    stacked = np.concatenate(partials)
    before, after = ([math.fsum(stacked[:, model, side]) for model in range(reader.k)] for side in (0, 1))
    return before, after


def block_sums(values: np.ndarray, grain: int) -> np.ndarray:
    """Float64 sums of consecutive runs of `grain` elements, in lanes, as the kernels sum; the last may be shorter."""
    blocks, rows = -(-values.size // grain), -(-grain // LANES)
    lanes = np.zeros((blocks, LANES))
    for row in range(rows):
        for first, last in ((0, values.size // grain), (values.size // grain, blocks)):
            start, stop = first * grain, min(last * grain, values.size)
            if start == stop:
                continue
            part = values[start:stop].reshape(last - first, -1)[:, row * LANES : (row + 1) * LANES]
            lanes[first:last, : part.shape[1]] += part
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return lanes[:, 0]


# --- order statistics of |delta| ------------------------------------------------------------------------------------


def thresholds(reader: Reader, asks: list[tuple[str, Largest]], known: Mapping[str, Any]) -> dict[str, list[float]]:
    """Exact order statistics of each model's |delta| over the tensor, by the name of the ask."""
    ranks = ranking(asks, reader.n, lambda n: ranks_of(reader.node, asks, n, known))
    held = reader.shared.held
    if held is None or reader.held_as is None or callable(ranks):
        values = _of_ranks(reader, ranks)
    else:
        values = held.fact((reader.held_as, reader.deltas, ranks.tobytes()), lambda: _of_ranks(reader, ranks))
    return {name: values[:, column].tolist() for column, (name, _) in enumerate(asks)}


def _of_ranks(reader: Reader, ranks: Ranks) -> np.ndarray:
    """The values with the given ranks: float32 (k, asks)."""
    if 0 < reader.n <= SORTED_UP_TO:
        return _sorted_out(reader, ranks)
    return largest(
        ranks,
        reader.k,
        reader.n,
        lambda counts: count_high(reader, counts),
        lambda first, counts, above: count_low(reader, first, counts, above),
        lambda counts: count_sample(reader, counts),
    )


def ranking(asks: list[tuple[str, Largest]], n: int, find: Callable[[Any], np.ndarray]) -> Ranks:
    """The ranks that asks of the same thing mean: `find(n)`, or `find` itself where n counts what is not zero."""
    return find if asks[0][1].nonzero else find(n)


def count_high(reader: Reader, counts: np.ndarray) -> int:
    """Add the histogram of the whole tensor's magnitudes. Returns how many there are."""
    for start, stop in reader.windows():
        raw = reader.load(start, stop)
        reader.check(reader.workspace.kernels.count_high(raw, reader.codes, stop - start, reader.deltas, counts), F32)
    return reader.n


def count_low(reader: Reader, first: np.ndarray, counts: np.ndarray, above: np.ndarray) -> None:
    """Add the whole tensor's magnitudes within windows of bit patterns, and above them."""
    for start, stop in reader.windows():
        raw = reader.load(start, stop)
        reader.check(
            reader.workspace.kernels.count_low(raw, reader.codes, stop - start, reader.deltas, first, counts, above),
            F32,
        )


def count_sample(reader: Reader, counts: np.ndarray) -> int:
    """Add the histogram of a sample; of a small tensor, of all of it. Returns how many magnitudes it counted."""
    sample = reader.sample()
    if sample is None:
        return count_high(reader, counts)
    raw, count = sample
    reader.workspace.kernels.count_high(raw, reader.codes, count, reader.deltas, counts)
    return count


def largest_of(
    pieces: Callable[[], Iterator[np.ndarray]],
    ranks: Ranks,
    k: int,
    n: int,
    sample: Callable[[], Iterator[np.ndarray]] | None = None,
) -> np.ndarray:
    """Exact order statistics of derived tensors, which `pieces` makes anew for each pass: float32 (tensors, elements).

    `sample` makes a few of the pieces.
    """

    def high(counts: np.ndarray) -> int:
        count_high_of(pieces(), counts)
        return n

    def few(counts: np.ndarray) -> int:
        assert sample is not None
        return count_high_of(sample(), counts)

    def low(first: np.ndarray, counts: np.ndarray, above: np.ndarray) -> None:
        count_low_of(pieces(), first, counts, above)

    return largest(ranks, k, n, high, low, few if sample else None)


def count_high_of(pieces: Iterator[np.ndarray], counts: np.ndarray) -> int:
    """Add the histograms of derived tensors. Returns how many elements each has."""
    codes = np.full(len(counts), F32.code, dtype=np.int64)
    seen = 0
    for values in pieces:
        seen += values.shape[1]
        kernels().count_high(values.view(np.uint8), codes, values.shape[1], 0, counts)
    return seen


def count_low_of(pieces: Iterator[np.ndarray], first: np.ndarray, counts: np.ndarray, above: np.ndarray) -> None:
    """Add what lies within windows of bit patterns, and above them, of derived tensors."""
    codes = np.full(len(counts), F32.code, dtype=np.int64)
    for values in pieces:
        kernels().count_low(values.view(np.uint8), codes, values.shape[1], 0, first, counts, above)


def _sorted_out(reader: Reader, ranks: Ranks) -> np.ndarray:
    """The values with the given ranks, by sorting."""
    rows = [reader.floats(row) for row in range(len(reader.rows))]
    vectors = [values - rows[0] for values in rows[1:]] if reader.deltas else rows
    ordered = [np.sort(np.abs(vector))[::-1] for vector in vectors]
    if callable(ranks):
        ranks = ranks(np.array([np.count_nonzero(vector) for vector in ordered]))
    values = np.where(ranks <= 0, np.float32(np.inf), np.float32(0))
    for model, vector in enumerate(ordered):
        inside = (ranks[model] > 0) & (ranks[model] <= reader.n)
        values[model, inside] = vector[ranks[model, inside] - 1]
    return values
