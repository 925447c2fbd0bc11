"""How the tests of this folder run a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from mergery import merge_tensors
from mergery.kernels.spectral import Factored
from mergery.method import Method
from mergery.testing.conformance import conformance
from mergery.testing.reference import REFERENCES

EVALUATE = merge_tensors
"""How the tests of this folder merge: by the engine, to which the suite compares `Method.__call__`."""


def suite(method: Method, **claims: Any) -> pytest.MarkDecorator:
    """The conformance suite, as parameters `check` of a test."""
    checks = conformance(method, evaluate=EVALUATE, reference=REFERENCES[method.name], **claims)
    return pytest.mark.parametrize("check", checks)


def merge(method: Method, models: Sequence[Any], base: Any = None, *, seed: int = 0, **settings: Any) -> Any:
    """Merge float32 tensors, given as such or as nested lists."""
    tensors = [torch.as_tensor(model, dtype=torch.float32) for model in models]
    origin = None if base is None else torch.as_tensor(base, dtype=torch.float32)
    return EVALUATE(method, tensors, origin, seed=seed, **settings)


def equals(out: torch.Tensor, expected: Any, tolerance: float = 1e-6) -> bool:
    """Whether a result has the expected values, up to `tolerance` of the largest."""
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    bound = tolerance * max(1e-300, float(wanted.abs().max()))
    return out.shape == wanted.shape and float((out.double() - wanted).abs().max()) <= bound


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def preset(method: Method, name: str) -> dict[str, Any]:
    """The settings of a preset, as a recipe would get them."""
    return dict(method.presets[name].settings)


@st.composite
def task_vectors(draw: st.DrawFn, *, least: int = 1) -> list[torch.Tensor]:
    """Some task vectors of one shape, of full or low rank and of unequal size, on the scale of one."""
    out, into = draw(st.integers(1, 8)), draw(st.integers(1, 9))
    deltas = []
    for index in range(draw(st.integers(least, 4))):
        seed = draw(st.integers(0, 10_000)) * 10 + 2 * index
        rank = draw(st.integers(1, min(out, into)))
        size = draw(st.sampled_from([0.5, 1.0, 2.0]))
        deltas.append(size * normal(out, rank, seed=seed) @ normal(rank, into, seed=seed + 1) / rank**0.5)
    return deltas


def hard_cases() -> dict[str, list[torch.Tensor]]:
    """Task vectors that linear algebra may stumble over."""
    a, b, c = (normal(6, 8, seed=seed) for seed in (1, 2, 3))
    return {
        "a duplicate": [a, b, a],
        "a zero": [a, 0.0 * a, b],
        "low rank": [normal(6, 2, seed=4) @ normal(2, 8, seed=5), normal(6, 1, seed=6) @ normal(1, 8, seed=7)],
        "one": [a],
        "twenty": [normal(6, 8, seed=10 + index) for index in range(20)],
        "tiny": [1e-6 * a, 1e-6 * b, 1e-6 * c],
    }


def factors(out: int, into: int, *, ranks: Sequence[int] = (2, 1, 3)) -> list[Factored]:
    """Task vectors as low-rank factors."""
    return [
        Factored(normal(out, rank, seed=2 * index), normal(rank, into, seed=2 * index + 1))
        for index, rank in enumerate(ranks)
    ]
