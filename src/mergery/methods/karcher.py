"""Karcher mean: the mean on the sphere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mergery.errors import RecipeError
from mergery.method import Coefficients, Gram, PerModel, each, method
from mergery.methods._weights import check_positive


def check_iteration(settings: Mapping[str, Any]) -> None:
    check_positive(settings)
    if settings["max_iter"] < 0 or settings["tol"] < 0.0:
        raise RecipeError(
            "max_iter and tol must not be negative", why="they say when the iteration ends", hint="leave them out"
        )


@method(paper="karcher1977", check=check_iteration, average=lambda settings: settings["weight"])
def karcher(
    gram: Gram,
    *,
    weight: PerModel[float] = each(1.0),
    max_iter: int = 100,
    tol: float = 1e-7,
    scope: Literal["tensor", "row", "column"] = "tensor",
) -> Coefficients:
    """Average the directions of the models on the sphere, exactly, and give them their mean length.

        repeat  v = sum_i w_i log_m(u_i),  m = cos|v| m + sin|v| v / |v|  until |v| < tol
        out = (sum_i w_i |x_i|) m

    with u_i = x_i / |x_i| and weights divided by their sum. It starts from the normalized mean of the u_i;
    the fixed point minimizes the weighted sum of squared angles (the Riemannian centre of mass). A zero
    vector has no direction, but its length counts. Where the directions cancel, the result is the linear
    average.

    Settings:
        weight: relative share of each model; the sum must be positive.
        max_iter: most steps. 0 gives the normalized mean.
        tol: the iteration ends where a step is shorter than this angle, in radians. Below 1e-8 nothing can be
            measured.
        scope: what is one vector: the whole tensor, each row (an output neuron's weights) or each column.

    Source: Karcher 1977, Riemannian center of mass and mollifier smoothing; Grove and Karcher 1973.

    Use it to average several models that lie far apart without losing length. Among close fine-tunes it
    equals the linear average to within the square of their angles.
    """
    import numpy as np

    from mergery.methods._sphere import cosines, directed, length, lengths, on_vectors, start, tangent, walk

    mass = weight / weight.sum()
    cosine, size = cosines(gram), lengths(gram)
    share = directed(mass, size)
    mean, cancelled = start(cosine, share)
    moving = ~cancelled
    for _ in range(max_iter):
        if not moving.any():
            break
        step = tangent(cosine, mean, share)
        moving &= length(cosine, step) >= tol
        there = walk(cosine, mean, step)
        there = there / np.where(moving, length(cosine, there), 1.0)[..., None]
        mean = np.where(moving[..., None], there, mean)
    radius = (mass * size).sum(-1)
    return np.where(cancelled[..., None], mass, on_vectors(gram, mean, radius))
