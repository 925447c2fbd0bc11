"""A computed tensor is made in any windows; a streamed one reads of its sources what a window needs, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from mergery.dtypes import F32
from mergery.engine import Shared, Workspace, evaluator
from mergery.engine.workspace import CHUNK
from mergery.errors import DataError
from mergery.graph.nodes import Computed, Read, made_whole
from tests.engine.test_gathering import leaf, made, merged

ASKED: list[tuple[int, int]] = []


def halved(reads: Sequence[Read]) -> Read:
    """Half of the first source."""

    def read(start: int, stop: int) -> np.ndarray:
        ASKED.append((start, stop))
        return reads[0](start, stop) / np.float32(2)

    return read


def test_a_streamed_tensor_reads_what_a_window_needs() -> None:
    values = torch.randn(40, 7)
    source = leaf(values)
    node = Computed("x", (40, 7), (source,), halved, "half", streamed=True)
    for window in (280, 64, 9):
        ASKED.clear()
        np.testing.assert_array_equal(made(node, window), values.reshape(-1).numpy() / 2)
        assert [(low, min(280, low + window)) for low in range(0, 280, window)] == ASKED


def test_a_merge_reads_computed_tensors_as_others() -> None:
    values = torch.randn(40, 7)
    node = Computed("x", (40, 7), (leaf(values),), halved, "half", streamed=True)
    expected = made(merged("linear", leaf(values / 2), leaf(values)))
    np.testing.assert_array_equal(made(merged("linear", node, leaf(values))), expected)


def test_what_is_made_whole_is_made_once() -> None:
    calls = []

    def mean(reads: Sequence[Read]) -> np.ndarray:
        calls.append(reads)
        return reads[0](0, 12).reshape(4, 3).mean(axis=0)

    values = torch.arange(12.0).reshape(4, 3)
    node = made_whole("x", (1, 3), (leaf(values),), mean, "the mean of its rows")
    assert made(node, 1).tolist() == [4.5, 5.5, 6.5]
    assert len(calls) == 1


def test_what_is_streamed_takes_memory_by_the_window() -> None:
    def held(rows: int, *, streamed: bool) -> int:
        source = leaf(torch.empty(rows, 1 << 10))
        node = Computed("x", source.shape, (source,), halved, "half", 100, 8, streamed=streamed)
        return evaluator(node, Shared(), Workspace()).nbytes(F32)

    assert held(1 << 11, streamed=True) == held(1 << 12, streamed=True) == 100 + CHUNK * (8 + 4 + 4)
    small = made_whole("x", (1, 1 << 20), (), lambda reads: np.zeros(1 << 20), "zeros")
    assert evaluator(small, Shared(), Workspace()).nbytes(F32) > 4 << 20


def test_what_is_not_finite_is_told() -> None:
    node = Computed("x", (2,), (), lambda reads: lambda start, stop: np.full(stop - start, np.inf), "nonsense")
    with pytest.raises(DataError, match=r"^nonsense for 'x' is not finite, or does not fit into float32"):
        made(node)
