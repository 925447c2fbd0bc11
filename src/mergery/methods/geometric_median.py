"""Geometric median: the point with the least sum of distances to the models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Coefficients, Gram, PerModel, each, method

if TYPE_CHECKING:
    import numpy as np

SAME = 1e-7
"""Of the largest distance: models nearer than this are one point; float64 products know no better."""


def check_iteration(settings: Mapping[str, Any]) -> None:
    if settings["max_iter"] < 0 or settings["tol"] < 0.0:
        raise RecipeError(
            "max_iter and tol must not be negative", why="they say when the iteration ends", hint="leave them out"
        )
    if (settings["weight"] < 0.0).any() or settings["weight"].sum() == 0.0:
        raise RecipeError(
            "the weights must not be negative, and not all zero", why="they weigh distances", hint="weight: 1"
        )


@method(paper="weiszfeld1937", span="either", check=check_iteration)
def geometric_median(
    gram: Gram,
    *,
    weight: PerModel[float] = each(1.0),
    max_iter: int = 1000,
    tol: float = 1e-9,
    scope: Literal["tensor", "row", "column", "model"] = "tensor",
) -> Coefficients:
    """Take the point whose distances to the models have the least weighted sum.

        out = argmin_y sum_i w_i |y - x_i|;   y <- sum_i (w_i / |y - x_i|) x_i / sum_i (w_i / |y - x_i|), from the mean

    A model at which the pull of all others is less than its own weight is the median itself, exactly. The median of
    two models is their weighted mean where the weights are equal, else the heavier one. It lies in the models' convex
    hull and does not depend on a base, which may be named for its config.

    Settings:
        weight: of each model's distance; not negative. More than half of the sum makes that model the result.
        max_iter: most steps. 0 gives the weighted mean, unless a model is the median.
        tol: the iteration ends where a step is shorter than this part of the largest distance.
        scope: what is one vector: the tensor, each row (an output neuron's weights), each column, or the model.

    Source: Weiszfeld 1937; the test at the models is that of Vardi and Zhang 2000.

    Use it to average many fine-tunes of which a few may have gone astray: up to half of the weight can be
    anywhere without carrying the median away, where the mean would follow.
    """
    import numpy as np

    k = gram.shape[-1]
    mass = weight / weight.sum()
    own = np.diagonal(gram, axis1=-2, axis2=-1)
    square = np.maximum(own[..., :, None] + own[..., None, :] - 2.0 * gram, 0.0)
    largest = np.sqrt(square.max((-1, -2), keepdims=True))
    unit = square / np.where(largest > 0.0, largest, 1.0) ** 2
    unit = np.where(unit <= SAME**2, 0.0, unit)
    start = np.broadcast_to(mass, (*gram.shape[:-2], k)).copy()
    best, settled = at_a_model(unit, mass)
    current = np.where(settled[..., None], best, start)
    moving = ~settled & (largest[..., 0, 0] > 0.0)
    for _ in range(max_iter):
        if not moving.any():
            break
        distance = np.sqrt(np.maximum(distances(unit, current), SAME**2))
        pull = mass / distance
        there = pull / pull.sum(-1, keepdims=True)
        step = there - current
        length = np.sqrt(np.maximum(-0.5 * np.einsum("...i,...ij,...j->...", step, unit, step), 0.0))
        current = np.where(moving[..., None], there, current)
        moving &= length >= tol
    return current


def distances(square: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Squared distances (..., k) of the models to the point with these shares, from those of the models (..., k, k)."""
    import numpy as np

    across = (square @ share[..., None])[..., 0]
    return np.maximum(across - 0.5 * (share * across).sum(-1, keepdims=True), 0.0)


def at_a_model(square: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares (..., k) of the models that are the median, where (...) there are such.

    At model i, the others pull with sum_j w_j (x_j - x_i) / |x_j - x_i|; it is the median if that is less than its weight.
    """
    import numpy as np

    apart = square > 0.0
    near = (~apart * mass).sum(-1)  # the weight that lies at each model
    inverse = np.divide(mass, np.sqrt(square), out=np.zeros_like(square), where=apart)  # (..., at i, pulled by j)
    pull = np.empty_like(near)
    for i in range(square.shape[-1]):
        products = square[..., i, :, None] + square[..., i, None, :] - square  # 2 (x_j - x_i) . (x_l - x_i)
        pull[..., i] = 0.5 * np.einsum("...j,...jl,...l->...", inverse[..., i, :], products, inverse[..., i, :])
    wins = np.sqrt(np.maximum(pull, 0.0)) < near * (1.0 - 1e-9)
    shares = wins * mass
    total = shares.sum(-1, keepdims=True)
    return np.divide(shares, total, out=np.zeros_like(shares), where=total > 0.0), wins.any(-1)
