"""Merged bytes, where all arithmetic is element by element; and merged values, where matrices are multiplied."""

from __future__ import annotations

import pytest

from tests.golden import measure
from tests.golden.recipes import CLOSE, EXACT, PACKED

TOLERANCE = 2e-5  # of the length of the change


@pytest.mark.parametrize("name", EXACT)
def test_bytes(name, models, tmp_path):
    assert measure.exact(EXACT[name], models, tmp_path / "out") == measure.expected("exact")[name]


@pytest.mark.parametrize("name", PACKED)
def test_packed_bytes(name, models, tmp_path):
    assert measure.packed(PACKED[name], models, tmp_path / "out") == measure.expected("packed")[name]


@pytest.mark.parametrize("name", CLOSE)
def test_values(name, models, tmp_path):
    found, wanted = measure.close(CLOSE[name], models, tmp_path / "out"), measure.expected("close")[name]
    assert found.keys() == wanted.keys()
    for tensor, numbers in wanted.items():
        assert found[tensor] == pytest.approx(numbers, rel=0, abs=TOLERANCE * numbers[0]), tensor


def test_no_result_is_left_over():
    for name, cases in {"exact": EXACT, "packed": PACKED, "close": CLOSE}.items():
        assert measure.expected(name).keys() == cases.keys()
