"""Exact order statistics of streams, against sorting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergery.dtypes import F32
from mergery.engine.ranks import largest
from mergery.kernels import kernels


class Stream:
    """Magnitudes, how often they are gone over, and a sample that takes every third."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = np.ascontiguousarray(values, dtype=np.float32)
        self.codes = np.full(len(values), F32.code, dtype=np.int64)
        self.passes = 0

    def high(self, counts: np.ndarray) -> int:
        self.passes += 1
        return self.count(self.values, counts)

    def sample(self, counts: np.ndarray) -> int:
        return self.count(np.ascontiguousarray(self.values[:, ::3]), counts)

    def count(self, values: np.ndarray, counts: np.ndarray) -> int:
        kernels().count_high(values.view(np.uint8), self.codes, values.shape[1], 0, counts)
        return values.shape[1]

    def low(self, *windows: np.ndarray) -> None:
        self.passes += 1
        kernels().count_low(self.values.view(np.uint8), self.codes, self.values.shape[1], 0, *windows)


def made(seed: int, n: int, zeros: float, steps: bool) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = random.standard_normal((2, n))
    values = np.round(values * 4) / 4 if steps else values
    return np.where(random.random((2, n)) < zeros, 0.0, values)


@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 3000),
    zeros=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    steps=st.booleans(),
    shares=st.lists(st.floats(0.0, 1.2), min_size=1, max_size=3),
    sampled=st.booleans(),
    nonzero=st.booleans(),
)
def test_they_are_those_of_sorting(seed, n, zeros, steps, shares, sampled, nonzero):
    stream = Stream(made(seed, n, zeros, steps))

    def ranks(many: Any) -> np.ndarray:
        return np.array([[int(share * own) for share in shares] for own in np.broadcast_to(many, 2)])

    found = largest(ranks if nonzero else ranks(n), 2, n, stream.high, stream.low, stream.sample if sampled else None)
    ordered = -np.sort(-np.abs(stream.values), axis=1)
    wanted = ranks(np.count_nonzero(ordered, axis=1) if nonzero else n)
    for own, row, result in zip(wanted, ordered, found, strict=True):
        assert result.tolist() == [np.inf if rank == 0 else 0.0 if rank > n else row[rank - 1] for rank in own]


@pytest.mark.parametrize("nonzero", [False, True])
def test_one_pass_is_enough_where_the_sample_tells_the_truth(nonzero):
    stream = Stream(made(0, 1 << 17, 0.3, steps=False))

    def ranks(many: Any) -> np.ndarray:
        return np.array([[int(0.2 * own)] for own in np.broadcast_to(many, 2)])

    largest(ranks if nonzero else ranks(1 << 17), 2, 1 << 17, stream.high, stream.low, stream.sample)
    assert stream.passes == 1
