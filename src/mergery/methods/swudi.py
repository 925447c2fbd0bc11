"""SWUDI: WUDI's descent in closed form, stopped early, on the eigenvectors that matter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Auto, Deltas, Fraction, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import LARGE, by_own_rows
from mergery.methods._scale import settled
from mergery.methods.wudi import check_weight

HAIR = 1e-3  # of one eigenvector: what is above a whole number by less is that number


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    single = settings["precision"] == "fast" and into >= LARGE
    return by_own_rows(
        k, out, into, single=single, what="1 eigenbasis of all task vectors' rows by the smaller Gram matrix"
    )


def check_time(settings: Mapping[str, Any]) -> None:
    check_weight(settings)
    if settings["time"] < 0.0:
        raise RecipeError("time must not be negative", why="it says how long the descent goes on", hint="time: 300")


def filtered(
    deltas: Deltas,
    noise: list[Tensor],
    weight: Any,
    start: str,
    share: Any,
    precision: str,
    scale: Auto,
    *,
    smooth: bool = False,
) -> MergedDelta:
    """The start, moved along each eigenvector of the tasks' inputs by a share of the way to the minimum, times the scale.

    `share(values, into)` gives the shares (..., r) from the eigenvalues (..., r) of matrices with `into` columns.
    """
    from mergery.kernels.spectral import framed, noise_of
    from mergery.methods._minima import flowed

    cores, frame = framed(deltas)
    fast = precision == "fast"
    moved = flowed(cores, weight, start, lambda values: share(values, frame.shape[1]), fast=fast, smooth=smooth)
    return frame.restore(settled(moved, scale, cores, weight, frame, noise_of(deltas, noise)))


def taking_part(rank: float, into: int) -> int:
    """How many eigenvectors a fraction of the inputs is: rounded up, as in the authors' code."""
    return math.ceil(rank * into - HAIR)


def leading(values: Tensor, count: Tensor | int) -> Tensor:
    """1.0 for the first `count` of the eigenvalues (..., r), 0.0 for the others."""
    import torch

    place = torch.arange(values.shape[-1], device=values.device)
    bound = count if isinstance(count, int) else count.unsqueeze(-1)
    return (place < bound).to(values.dtype).expand(values.shape)


@method(
    paper="2606.07289",
    unit="matrix",
    check=check_time,
    roles=LINEAR,
    presets={"paper": Preset({"start": "sum", "scale": 1.0})},
    routing=routing,
)
def swudi(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    time: float = 300.0,
    rank: Fraction = 0.85,
    start: Literal["mean", "sum"] = "mean",
    precision: Literal["fast", "exact"] = "fast",
    scale: Auto = "auto",
) -> MergedDelta:
    """Follow WUDI's gradient for a while, in closed form, along the directions that matter.

        d_i = x_i - base;   C = sum_i w_i S_i = Q L Q^T,   S_i = d_i^T d_i / |d_i|^2;   D* = (sum_i w_i d_i S_i) C^+
        out = base + scale * (D_0 + (D* - D_0) Q F Q^T),   F = 1 - exp(-time L) for the leading `rank` in, else 0

    It is where gradient flow on WUDI's loss stands after `time`, kept to the leading eigenvectors of C: one
    eigendecomposition in place of hundreds of steps, and no dependence on the size of task vectors. Where F is 0
    the start D_0 stays.

    Settings:
        weight: weight of each task, not negative.
        time: how far the flow goes; a very long one ends in the minimum. 300 to 1800 in the paper.
        rank: fraction of the inputs whose eigenvectors take part, in [0, 1], rounded up; 0.85 in the authors' runs with
            language models, 0.65 the default of their code.
        start: the mean of the task vectors, an option of the authors' code, or their sum, its default.
        precision: `fast` makes products of matrices with 512 and more inputs in float32, and the
            eigenvectors too, made exact next to the last that takes part: it changes the result by a few millionths;
            `exact` makes all in float64, in nearly twice the time.
        scale: factor of the merged task vector. `auto` is 1 where task vectors are of full rank. What adapters change
            shows little of their inputs: there each matrix is scaled so that it disturbs the tasks least. It is 1 in
            the paper, with multimodal models 1 from the mean and 0.1 to 0.3 from the sum.

    Source: Wei et al. 2026 (arXiv 2606.07289) and its code, `swudi_merge` in WalkerWorldPeace/MLLMerging. The preset
    `paper` begins at the sum. Everything but the matrices of attention and MLPs is averaged.

    Use it in place of `wudi` for language models: it costs a small part of the time.
    """

    def share(values: Tensor, into: int) -> Tensor:
        return -(-time * values).expm1() * leading(values, taking_part(rank, into))

    return filtered(deltas, noise, weight, start, share, precision, scale, smooth=True)
