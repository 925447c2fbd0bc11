"""PCB: parameters compete within a task vector and between task vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Deltas, Fraction, Largest, PerModel, Preset, Tensor, each, method


def highest(n: int, settings: Mapping[str, Any]) -> int:
    """The rank of the largest magnitude that is not clipped."""
    return int(settings["clip"] * n) + 1


def lowest(n: int, settings: Mapping[str, Any]) -> int:
    """The rank of the smallest magnitude that is not clipped."""
    return max(1, n - int(settings["clip"] * n))


def check_clip(settings: Mapping[str, Any]) -> None:
    if settings["clip"] >= 0.5:
        raise RecipeError(
            f"clip is {settings['clip']:g}",
            why="it is cut from either end, so it must be below 0.5",
            hint="clip: 0.0001",
        )


def first(n: int, settings: Mapping[str, Any]) -> int:
    return 1


def levels(deltas: Deltas, most: Sequence[float], least: Sequence[float]) -> list[Tensor]:
    """Signed magnitudes, clipped and brought to [0, 1] for each model: 1 where all are equal."""
    result = []
    for delta, high, low in zip(deltas, most, least, strict=True):
        size = delta.abs().clamp(low, high)
        unit = (size - low) / (high - low) if high > low else size.new_ones(size.shape)
        result.append(delta.sign() * unit)
    return result


def support(units: Sequence[Tensor], rivals: str) -> list[Tensor]:
    """What the models together say to each entry: against the sum of all at once, or one by one and added up."""
    if rivals == "each":
        return [total([(unit * other).tanh() for other in units]) for unit in units]
    together = total(units)
    return [(unit * together).tanh() for unit in units]


def total(tensors: Sequence[Tensor]) -> Tensor:
    """The sum, in the order of the models."""
    result = tensors[0]
    for tensor in tensors[1:]:
        result = result + tensor
    return result


def scores(deltas: Deltas, most: Sequence[float], least: Sequence[float], rivals: str) -> list[Tensor]:
    """How well each entry competes: float32, not negative; 0 where the models together want the other sign."""
    units = levels(deltas, most, least)
    inside = [(len(units) * (unit.square() - 1.0)).exp() for unit in units]
    return [own * both.clamp(min=0.0) for own, both in zip(inside, support(units, rivals), strict=True)]


@method(paper="2410.02396", check=check_clip, presets={"paper": Preset({"rivals": "each"})}, weighs="factors")
def pcb(
    deltas: Deltas,
    most: Annotated[list[float], Largest(highest)],
    least: Annotated[list[float], Largest(lowest)],
    top: Annotated[list[float], Largest(first, scores)],
    cut: Annotated[list[float], Largest("density", scores)],
    *,
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.1),
    clip: Fraction = 1e-4,
    rivals: Literal["sum", "each"] = "sum",
    scope: Literal["tensor", "model"] = "model",
    scale: float = 1.0,
) -> Tensor:
    """Let the entries of each task vector compete, keep the winners, and average them by their scores.

        clip     |x_i - base| to its `clip` and 1 - `clip` quantiles, the signs kept: d_i
        level    u_i = sign(d_i) (|d_i| - min |d_i|) / (max |d_i| - min |d_i|)
        score    b_i = exp(N (u_i^2 - 1)) * max(0, tanh(u_i sum_j u_j)),  N models
        drop     s_i = (b_i - q) / (max b_i - q) where b_i >= q, the floor(density n)-th largest, else 0
        merge    out = base + scale * sum_i w_i d_i s_i / sum_i s_i

    The first factor of the score is competition within the task vector, the second between them: an entry against
    which the others vote scores 0. Quantiles are order statistics, exact. Where all scores of a model are equal, the
    winners have s_i = 1; the last winner has s_i = 0.

    Settings:
        weight: the paper's lambda_i, factor of each task vector.
        density: fraction of each task vector that wins, in [0, 1]; the paper keeps 0.05 to 0.2. 0 keeps nothing.
        clip: fraction of the magnitudes that is clipped at either end; 0.0001 in the authors' code for language
            models, 0.01 for vision. Below 0.5.
        rivals: an entry competes with the sum of all models' levels, as above, which is Mergery's choice; or with each, by
            max(0, sum_j tanh(u_i u_j)), as in the authors' code for evolved coefficients.
        scope: quantiles and extremes are of each tensor, or of the whole model (the paper).
        scale: factor of the merged task vector; 1 to 1.2 in the paper.

    Source: Du et al. 2024, Parameter Competition Balancing (arXiv 2410.02396). The authors' scripts differ: they multiply
    levels one by one (`pcb_ES.py`, and the preset `paper`), or raw task vectors, whose products underflow, with their
    own or the levels' sum.

    Use it where TIES is used: it trims by agreement as well as by size, and weighs what is left.
    """
    units = levels(deltas, most, least)
    merged, share = deltas[0].new_zeros(deltas[0].shape), deltas[0].new_zeros(deltas[0].shape)
    won = scores(deltas, most, least, rivals)
    for i, (delta, unit, score) in enumerate(zip(deltas, units, won, strict=True)):
        wins = (score >= cut[i]) & (score > 0.0)
        lead = top[i] - cut[i]
        own = wins * ((score - cut[i]) / lead if 0.0 < lead < math.inf else 1.0)
        clipped = unit.sign() * delta.abs().clamp(least[i], most[i])
        merged = merged + clipped * own * float(weight[i])
        share = share + own
    return merged / share.where(share > 0.0, share.new_ones(())) * scale
