"""What every method on matrices must stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from mergery.kernels.spectral import Factored
from mergery.method import Method
from mergery.testing.conformance import Check

from .matrices import of_rank, rank
from .merging import equals, merge, normal, suite


def consensus(method: Method, **settings: Any) -> None:
    """The checks of the conformance suite that other settings may fail."""
    for check in suite(method, settings=settings).args[1]:
        if "reference" in check.name or "order" in check.name or "scales" in check.name or "itself" in check.name:
            check()


def hard_cases(method: Method, *, bounded: bool = True, **settings: Any) -> pytest.MarkDecorator:
    """Task vectors that methods on matrices stumble over, as parameters `case` of a test.

    bounded: whether the result has no more rank than the task vectors together.
    """
    origin = normal(12, 16, seed=99)

    def moved(deltas: list[torch.Tensor], base: torch.Tensor = origin) -> torch.Tensor:
        """What is added to the base, float64; small changes of a base of their own size lose nothing to rounding."""
        size = max(float(delta.abs().max()) for delta in deltas)
        base = base * 2.0 ** math.ceil(math.log2(size))
        return merge(method, [base + delta for delta in deltas], base, **settings).double() - base.double()

    def twenty_models_tiny_changes_and_one_that_never_moved() -> None:
        deltas = [*(normal(12, 16, seed=seed) * 1e-6 for seed in range(19)), torch.zeros(12, 16)]
        out = moved(deltas)
        assert out.isfinite().all()
        assert 1e-8 < out.abs().max() < 1e-4

    def tiny_changes_of_large_weights() -> None:
        deltas = [normal(12, 16, seed=seed) * 1e-6 for seed in range(3)]
        out = merge(method, [origin + delta for delta in deltas], origin, **settings) - origin
        assert out.isfinite().all()
        assert 1e-8 < out.abs().max() < 1e-4

    def a_duplicate_one_of_low_rank_and_none() -> None:
        deltas = [normal(12, 16), normal(12, 16), of_rank(2, 12, 16, 5).dense(), torch.zeros(12, 16)]
        out = moved(deltas)
        assert out.isfinite().all()
        assert 0.01 < out.norm() < 10 * sum(delta.norm() for delta in deltas)

    def no_more_rank_than_there_is() -> None:
        out = moved([of_rank(2, 12, 16, 0).dense(), of_rank(1, 12, 16, 5).dense()], torch.zeros(12, 16))
        assert 1 <= rank(out) <= 3

    def more_models_than_rows() -> None:
        base = normal(3, 5, seed=9)
        out = merge(method, [base + normal(3, 5, seed=seed) for seed in range(7)], base, **settings) - base
        assert out.isfinite().all()
        assert out.norm() > 0.01

    def factors_give_what_their_product_gives() -> None:
        for ranks, base in (((2, 3), origin), ((1, 1, 4), origin), ((6, 7), origin), ((2, 0), origin)):
            factors = [of_rank(own, 12, 16, 10 * seed) for seed, own in enumerate(ranks)]
            products = [factor.dense() for factor in factors]
            zero = torch.zeros(12, 16)
            if method.base == "required" and "base" not in dict(method.asks):
                alone = method(factors, seed=4, **settings)
                assert isinstance(alone, Factored) or not bounded or sum(ranks) >= 12
                alone = alone.dense() if isinstance(alone, Factored) else alone
                assert equals(alone, merge(method, products, zero, seed=4, **settings), 1e-5)
            out = method(factors, base, seed=4, **settings)
            whole = merge(method, [base.double() + product for product in products], base, seed=4, **settings)
            assert equals(out, whole, 1e-5)

    cases: list[Callable[[], None]] = [
        twenty_models_tiny_changes_and_one_that_never_moved, tiny_changes_of_large_weights,
        a_duplicate_one_of_low_rank_and_none, more_models_than_rows, factors_give_what_their_product_gives,
    ]  # fmt: skip
    cases += [no_more_rank_than_there_is] if bounded else []
    return pytest.mark.parametrize("case", [Check(case.__name__, case) for case in cases])
