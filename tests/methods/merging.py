"""How the tests of this folder run a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from weft.method import Method
from weft.testing.conformance import conformance
from weft.testing.reference import REFERENCES

EVALUATE = Method.__call__  # or `weft.testing.whole.run_whole`, the reference evaluator
"""`Method.__call__` runs everything through the engine; `run_whole` tests the methods alone."""


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
