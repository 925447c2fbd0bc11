"""Float16 by the processor's instruction and by arithmetic: the same patterns of every number."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba")

from mergery.kernels.compiled import float16 as float16
from mergery.kernels.compiled.jit import kernel

from_instruction, to_instruction = float16._from_instruction, float16._to_instruction
from_pattern, to_pattern = float16._from_pattern, float16._to_pattern


# Four kernels, for their code is kept under their names.


@kernel
def widen_by_instruction(stored, values):
    for e in range(stored.size):
        values[e] = from_instruction(stored[e])
    return np.int64(0)


@kernel
def widen_by_pattern(stored, values):
    for e in range(stored.size):
        values[e] = from_pattern(stored[e])
    return np.int64(0)


@kernel
def narrow_by_instruction(values, stored):
    for e in range(values.size):
        stored[e] = to_instruction(values[e])
    return np.int64(0)


@kernel
def narrow_by_pattern(values, stored):
    for e in range(values.size):
        stored[e] = to_pattern(values[e])
    return np.int64(0)


WIDENING = [widen_by_pattern, widen_by_instruction]
NARROWING = [narrow_by_pattern, narrow_by_instruction]
if not float16._has_instructions():
    del WIDENING[1], NARROWING[1]


@pytest.mark.parametrize("widen", WIDENING, ids=lambda one: one.__name__)
def test_every_half_widens_as_numpy_widens_it(widen) -> None:
    stored = np.arange(1 << 16, dtype=np.uint16)
    values = np.empty(stored.size, np.float32)
    widen(stored, values)
    expected = stored.view(np.float16).astype(np.float32)
    number = ~np.isnan(expected)
    assert (values.view(np.uint32) == expected.view(np.uint32))[number].all()
    assert np.isnan(values[~number]).all()


@pytest.mark.parametrize("narrow", NARROWING, ids=lambda one: one.__name__)
def test_every_pattern_narrows_as_numpy_narrows_it(narrow) -> None:
    """One in 251 of all float32, each at another place in its rounding interval, and every NaN the same."""
    patterns = np.arange(0, 1 << 32, 251, dtype=np.uint64).astype(np.uint32)
    values = patterns.view(np.float32)
    stored = np.empty(values.size, np.uint16)
    narrow(values.copy(), stored)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    number = ~np.isnan(values)
    assert (stored == expected.view(np.uint16))[number].all()
    assert (stored[~number] == 0x7E00).all()
