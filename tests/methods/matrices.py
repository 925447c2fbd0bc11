"""Task vectors with singular vectors of a known kind, and what every method on matrices must stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import weft
from weft.kernels.spectral import Factored
from weft.method import Method
from weft.testing.conformance import Check

from .merging import equals, merge, normal, suite


def diagonal(*entries: float) -> torch.Tensor:
    return torch.diag(torch.tensor(entries, dtype=torch.float32))


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Columns of length one at right angles, float64."""
    return torch.linalg.qr(normal(rows, columns, seed=seed).double()).Q


def apart(k: int, rank: int, out: int, into: int, seed: int) -> list[torch.Tensor]:
    """Task vectors of a rank whose directions, of outputs and of inputs, are at right angles to those of the others."""
    left, right = orthonormal(out, k * rank, seed), orthonormal(into, k * rank, seed + 1)
    order = torch.randperm(k * rank, generator=torch.Generator().manual_seed(seed))
    size = 2.0 - order.double() / (k * rank)  # none like another, which would leave the directions open
    own = [slice(rank * task, rank * (task + 1)) for task in range(k)]
    return [(left[:, each] * size[each] @ right[:, each].mT).float() for each in own]


def of_rank(rank: int, out: int, into: int, seed: int) -> Factored:
    return Factored(normal(out, rank, seed=seed), normal(rank, into, seed=seed + 1))


def spectrum(matrix: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(matrix.double())


def rank(matrix: torch.Tensor) -> int:
    s = spectrum(matrix)
    return int((s > 1e-5 * s[0]).sum())


def truncated(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of a rank."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, :rank] * s[:rank] @ vh[:rank]


def agree(method: Method, **settings: Any) -> None:
    """The checks of the conformance suite that other settings may fail."""
    for check in suite(method, settings=settings).args[1]:
        if "reference" in check.name or "order" in check.name or "scales" in check.name or "itself" in check.name:
            check()


# --- hard cases ---------------------------------------------------------------------------------------------------


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


# --- whole models -------------------------------------------------------------------------------------------------

EMBED, LINEAR, NORM = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
SHAPES = {EMBED: (9, 6), LINEAR: (8, 6), NORM: (6,)}
BASE, *MODELS = ({name: normal(*shape, seed=seed) for name, shape in SHAPES.items()} for seed in range(3))


def by_recipe(method: Method, **merge: Any) -> dict[str, torch.Tensor]:
    """Two fine-tunes of one base, with an embedding, a matrix and a vector."""
    models = {"base": BASE, "a": MODELS[0], "b": MODELS[1]}
    out = weft.merge({"models": models, "merge": {"method": method.name, "base": "base", **merge}})
    assert isinstance(out, dict)
    return out


def of_models(method: Method, name: str, **settings: Any) -> torch.Tensor:
    """One tensor of them, merged by a method."""
    return merge(method, [model[name] for model in MODELS], BASE[name], **settings)


def mean(name: str) -> torch.Tensor:
    return (MODELS[0][name] + MODELS[1][name]) / 2
