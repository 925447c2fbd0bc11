"""What the conformance suite merges, and how it compares results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mergery.errors import RecipeError
from mergery.kernels.random import KeyedUniform
from mergery.method.evaluating import stream_keys

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SHAPES = ((), (1,), (7,), (5, 3), (3, 1), (1, 6), (2, 3, 4), (33, 65))
EMPTY = ((0,), (0, 3), (3, 0))
MATRICES = ((1, 1), (5, 3), (3, 1), (1, 6), (2, 3, 4), (3, 2, 2, 2), (33, 65), (65, 33))
EMPTY_MATRICES = ((0, 3), (3, 0), (0, 2, 3))
DTYPES = ("float32", "bfloat16", "float16", "float64")
GRID = 2.0**-20  # all examples are multiples of it below 2, so that float32 differences are exact


def example(
    shape: tuple[int, ...], k: int, *, base: bool = True, dtype: str = "float32", seed: int = 0
) -> tuple[list[Tensor], Tensor | None]:
    """Models around a base, whose differences float32 holds exactly. Without `base`, the base is None."""
    import torch

    generator = torch.Generator().manual_seed(seed + 1000 * len(shape) + sum(shape))

    def grid(reach: int) -> Tensor:
        return torch.randint(-reach, reach + 1, shape, generator=generator).double() * GRID

    centre = grid(1 << 19)
    models = [(centre + grid(1 << 18)).to(getattr(torch, dtype)) for _ in range(k)]
    return models, centre.to(getattr(torch, dtype)) if base else None


def coins_of(models: Sequence[Tensor], seed: int) -> Callable[[int], np.ndarray]:
    """The uniform numbers that `Method.__call__` and `merge_tensors` draw, as references take them."""
    coins = KeyedUniform(stream_keys(seed, len(models)), models[0].shape)
    return lambda model: coins.uniform(model).double().numpy()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape, dtype and values."""
    import torch

    return a.dtype == b.dtype and torch.equal(a, b)


def assert_close(out: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Equal up to `tolerance` times the largest magnitude expected."""
    assert out.shape == expected.shape, what
    if expected.numel():
        error = float((out.double() - expected.double()).abs().max())
        assert error <= tolerance * float(expected.double().abs().max()), f"{what}: off by {error:.3g}"


def refused(call: Callable[[], Any]) -> bool:
    try:
        call()
    except RecipeError:
        return True
    return False
