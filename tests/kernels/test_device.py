"""The kernels of a device, slice by slice, give what the readable ones give of the whole window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergery.kernels import BLOCK, readable
from mergery.kernels.device import DeviceKernels
from mergery.kernels.random import uniform
from tests.kernels.kernel_cases import SIZES, consensus, count_high, count_low, gram, make, mix
from tests.kernels.test_same_bytes import assert_same, cases, quick

N = 3 * BLOCK + 77
no_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU HERE: streams and pinned buffers are NOT TESTED"
)
PLACES = [pytest.param("cpu", id="cpu"), pytest.param("cuda", id="cuda", marks=no_gpu)]


def sliced(place: str, blocks: int = 1, rows: int = 4) -> DeviceKernels:
    """Kernels that cut a window of so many rows into slices of so many blocks, however small it is."""
    return DeviceKernels(torch.device(place), slice_bytes=blocks * BLOCK * 4 * rows, small=0)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("blocks", [1, 2, 50])
def test_slices_make_the_whole(place, blocks):
    case = make(1, "weights", [0, 1, 2, 3], N, 1)
    both = (readable, sliced(place, blocks))
    coefficients = np.array([[0.3, -0.2, 1.1]], np.float32)
    assert_same([mix(module, case, coefficients, 0) for module in both])
    rule = consensus(4, 3, random=1, elect=1, normalize=1)
    assert_same([rule.consensus(module, case, 0, 1000) for module in both])
    assert_same([rule.l1_norms(module, case, 1000) for module in both])
    assert_same([gram(module, case) for module in both])
    assert_same([count_high(module, case) for module in both])
    first = np.tile(np.array([[15000, -1, 16000]], np.int64), (3, 1))
    assert_same([count_low(module, case, first, 3) for module in both])


def test_the_slices_are_as_many_as_they_should_be():
    kernels = sliced("cpu", 2)
    case = make(2, "weights", [2] * 4, N, 1)
    found = [(start, stop) for start, stop, _, _ in kernels.slices(case.raw, case.codes, N)]
    assert found == [(0, 2 * BLOCK), (2 * BLOCK, N)]
    assert [(a, b) for a, b, _, _ in kernels.slices(case.raw, case.codes, N, whole=True)] == [(0, N)]
    assert len(list(sliced("cpu", 50).slices(case.raw, case.codes, N))) == 1


@pytest.mark.parametrize("place", PLACES)
def test_a_slice_travels_before_the_one_before_it_is_done(place):
    """Double buffering: while a slice is computed, the next one is on its way to the other lane."""
    kernels = sliced(place)
    case = make(3, "weights", [2] * 4, N, 1)
    loaded: list[int] = []
    for lane in kernels.lanes:
        real = lane.load
        lane.load = lambda raw, codes, start, stop, real=real: (loaded.append(start), real(raw, codes, start, stop))[1]
    lanes = []
    for number, (start, _, _, lane) in enumerate(kernels.slices(case.raw, case.codes, N)):
        assert loaded[number] == start
        assert len(loaded) == min(number + 2, 4)
        lanes.append(lane)
    assert lanes == [*kernels.lanes, *kernels.lanes]


@pytest.mark.parametrize("place", PLACES)
def test_masks_are_the_processors(place):
    """DARE's coins are integers, so they are the same everywhere."""
    there = uniform(2**63 + 12345, 1001, 90_000, torch.device(place))
    assert there.device.type == place
    assert torch.equal(there.cpu(), uniform(2**63 + 12345, 1001, 90_000))


@pytest.mark.parametrize("place", PLACES)
def test_status_of_any_slice(place):
    case = make(7, "weights", [2] * 4, N, 1)
    case.raw[2, (N - 1) * 4 : N * 4] = np.frombuffer(np.float32(np.nan).tobytes(), np.uint8)
    case.raw[3, :4] = np.frombuffer(np.float32(np.inf).tobytes(), np.uint8)
    kernels = sliced(place)
    assert mix(kernels, case, np.ones((1, 3), np.float32), 2)[0] & 15 == 0b1100
    assert gram(kernels, case)[0] == count_high(kernels, case)[0] == 0b1100


@pytest.mark.parametrize("place", PLACES)
def test_rows_with_coefficients_of_their_own_stay_together(place):
    case = make(9, "weights", [0, 0, 0], 3 * BLOCK, 0)
    coefficients = np.random.default_rng(0).standard_normal((BLOCK, 3)).astype(np.float32)
    assert_same([mix(module, case, coefficients, 0) for module in (readable, sliced(place))])


@quick
@given(cases(has_base=1), st.integers(0, 3), st.integers(0, 999), st.tuples(*[st.integers(0, 1)] * 3))
def test_any_small_window(case, out_code, seed, flags):
    random, elect, normalize = flags
    rule = consensus(seed, case.k, random=random, elect=elect, normalize=normalize)
    both = (readable, sliced("cpu"), DeviceKernels(torch.device("cpu")))
    assert_same([rule.consensus(module, case, out_code, 3) for module in both[:2]])
    assert_same([rule.consensus(module, case, out_code, 3) for module in both[::2]])


def test_an_empty_window():
    case = make(0, "weights", [0, 1, 3], 0, 1)
    kernels = sliced("cpu")
    assert mix(kernels, case, np.ones((1, 2), np.float32), 0)[0] == 0
    assert gram(kernels, case)[1].shape == (0, 2, 2)


def test_converting_stays_on_the_processor():
    case = make(5, "weights", [2], 1000, 0)
    out, expected = np.zeros(1000 * SIZES[0], np.uint8), np.zeros(1000 * SIZES[0], np.uint8)
    assert sliced("cpu").convert(case.raw[0], 2, 1000, out, 0) == readable.convert(case.raw[0], 2, 1000, expected, 0)
    np.testing.assert_array_equal(out, expected)
