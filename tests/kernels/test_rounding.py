"""Codes by hand, against the library that reads them, and GPTQ against what it solves, written without its shortcuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mergery.checkpoints.quantised.numbers import integers
from mergery.checkpoints.quantised.writing import packed
from mergery.kernels.rounding import DAMPING, Grid, gptq, nearest, scales_of, spread

FOUR, EIGHT, FLOAT = Grid(4, group=32), Grid(8), Grid(8, floating=True)


def normal(rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def gram_of(width: int, tokens: int, seed: int = 1) -> Tensor:
    """X^T X of inputs that go together, as those of models do, some of them large."""
    mixed = normal(tokens, width, seed) @ normal(width, width, seed + 1) / width**0.5
    inputs = mixed * (1 + 5 * (torch.arange(width) % 7 == 0))
    return inputs.T @ inputs


def lost(values: Tensor, codes: Tensor, scales: Tensor, gram: Tensor) -> float:
    """The squared error of the product with the inputs."""
    error = (codes * spread(scales, values.shape[1]) - values).double()
    return float((error @ gram.double() * error).sum())


def test_four_bits_by_hand() -> None:
    values = torch.tensor([[0.1, -0.2, 0.34, 0.75], [0.0, 0.0, 0.0, 0.0], [-1.5, 0.29, 0.31, -0.1]])
    grid = Grid(4, group=4)
    scales = scales_of(values, grid, torch.float32)
    assert torch.allclose(scales[[0, 2]], torch.tensor([[0.1], [0.2]]))  # the largest over 7.5
    assert scales[1] > 0
    assert nearest(values, scales, grid).tolist() == [[1, -2, 3, 7], [0, 0, 0, 0], [-8, 1, 2, 0]]


def test_eight_bits_by_hand() -> None:
    values = torch.tensor([[12.75, -12.75, 0.04, 0.06, -1.0]])
    scales = scales_of(values, EIGHT, torch.float32)
    assert torch.allclose(scales, torch.tensor([[0.1]]))
    assert nearest(values, scales, EIGHT).tolist() == [[127, -128, 0, 1, -10]]
    values = torch.tensor(
        [[448.0, -17.0, 19.0, 0.001, 0.0009]]
    )  # 3 bits behind the first: 16, 18, 20; the least is 1 / 512
    assert scales_of(values, FLOAT, torch.float32).item() == 1.0
    assert nearest(values, torch.ones(1, 1), FLOAT).tolist() == [[448.0, -16.0, 20.0, 2**-9, 0.0]]


@given(seed=st.integers(0, 1000), size=st.floats(1e-3, 1e3))
def test_no_number_is_further_off_than_half_a_step(seed: int, size: float) -> None:
    values = normal(8, 64, seed) * size
    for grid, dtype in ((FOUR, torch.float32), (EIGHT, torch.float32), (FOUR, torch.bfloat16), (EIGHT, torch.float16)):
        scales = scales_of(values, grid, dtype)
        steps = spread(scales, 64)
        error = (nearest(values, scales, grid) * steps - values).abs()
        assert bool((error <= steps * 0.5001).all())
    scales = scales_of(values, FLOAT, torch.float32)
    error = (nearest(values, scales, FLOAT) * scales - values).abs()
    assert bool((error <= torch.maximum(values.abs() * 2**-4, scales * 2**-10) * 1.0001).all())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [32, 37, 5])
def test_words(bits: int, width: int) -> None:
    half = 1 << (bits - 1)
    codes = torch.randint(-half, half, (3, width), generator=torch.Generator().manual_seed(bits)).float().numpy()
    words = packed(codes, bits)
    assert words.shape == (3, -(-width * bits // 32) * 4)
    assert np.array_equal(integers(words.view("<i4"), bits)[:, :width].astype(np.float32) - half, codes)


@pytest.mark.parametrize(("grid", "kind"), [(FOUR, "int"), (EIGHT, "int"), (FLOAT, "float")])
@pytest.mark.filterwarnings("ignore")
def test_codes_are_those_of_the_library(grid: Grid, kind: str) -> None:
    quantization = pytest.importorskip("compressed_tensors", reason="it is the reference").quantization
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    size = {"strategy": "channel"} if grid.group is None else {"strategy": "group", "group_size": grid.group}
    args = quantization.QuantizationArgs(num_bits=grid.bits, type=kind, symmetric=True, **size)
    values = normal(16, 128)
    values[3] = 0.0
    parts = values.reshape(16, grid.groups(128), -1)
    expected, zeros = calculate_qparams(parts.amin(-1), parts.amax(-1), args)
    scales = scales_of(values, grid, torch.float32)
    assert torch.equal(scales, expected)
    assert torch.equal(nearest(values, scales, grid), quantize(values, expected, zeros, args).float())


def by_elimination(values: Tensor, scales: Tensor, grid: Grid, gram: Tensor) -> Tensor:
    """Optimal brain quantisation in GPTQ's order: after each column the inverse is made anew, of the columns that are left."""
    work, steps = values.double().numpy().copy(), spread(scales, values.shape[1]).double().numpy()
    damped = gram.double().numpy() + DAMPING * float(gram.double().diagonal().mean()) * np.eye(len(gram))
    order = list(np.argsort(-gram.diagonal().numpy(), kind="stable"))
    codes = np.zeros_like(work)
    while order:
        column = order[0]
        inverse = np.linalg.inv(damped[np.ix_(order, order)])
        codes[:, column] = np.clip(np.round(work[:, column] / steps[:, column]), grid.least, grid.largest)
        error = work[:, column] - codes[:, column] * steps[:, column]
        work[:, order] -= np.outer(error, inverse[0] / inverse[0, 0])
        order = order[1:]
    return torch.from_numpy(codes).float()


@pytest.mark.parametrize("width", [32, 160])  # the second is longer than what is changed together
def test_gptq_is_elimination(width: int) -> None:
    values, gram = normal(6, width), gram_of(width, 64)
    scales = scales_of(values, FOUR, torch.float32)
    expected = by_elimination(values, scales, FOUR, gram)
    found = gptq(values.clone(), scales, FOUR, gram)
    assert (
        float((found != expected).float().mean()) < 0.02
    )  # float32 and float64 differ where a number stands between codes
    assert lost(values, found, scales, gram) == pytest.approx(lost(values, expected, scales, gram), rel=0.02)


@given(seed=st.integers(0, 1000), grid=st.sampled_from([FOUR, EIGHT]), tokens=st.sampled_from([16, 64, 300]))
def test_gptq_loses_less_than_rounding_to_the_nearest(seed: int, grid: Grid, tokens: int) -> None:
    values, gram = normal(16, 64, seed), gram_of(64, tokens, seed + 5000)
    scales = scales_of(values, grid, torch.float32)
    exact = lost(values, nearest(values, scales, grid), scales, gram)
    assert lost(values, gptq(values.clone(), scales, grid, gram), scales, gram) < exact


def test_inputs_that_do_not_go_together_leave_the_nearest() -> None:
    values = normal(4, 64)
    scales = scales_of(values, FOUR, torch.float32)
    for gram in (torch.zeros(64, 64), torch.eye(64), torch.diag(torch.arange(64.0))):
        assert torch.equal(gptq(values.clone(), scales, FOUR, gram), nearest(values, scales, FOUR))
