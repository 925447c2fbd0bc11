"""DOGE: one change for all tasks that brings their sum nearer to each, outside the directions that they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.errors import RecipeError
from mergery.method import Deltas, Fraction, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import WIDE, by_svd
from mergery.methods.tsv_merge import share as own_share

PACE = 0.1  # of the root mean square of the task vectors: how far a step moves an entry where no rate is given
TIE = 1e-6  # singular values that differ by less, relatively, are the same


def check_steps(settings: Mapping[str, Any]) -> None:
    if settings["steps"] < 0 or (settings["rate"] or 0.0) < 0.0:
        raise RecipeError(
            "steps and rate must not be negative",
            why="they say how far the descent goes",
            hint="leave them out: the defaults are the paper's",
        )
    if (settings["size"] or 0.0) < 0.0:
        raise RecipeError("size must not be negative", why="it is the length of a task vector", hint="leave it out")


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    shared = int(min(out, into) * settings["shared"] + TIE)
    what = f"{settings['steps']} steps of Adam in float64 after {k + 1} thin SVDs"
    found = by_svd(k, out, into, k + 1, held=k + 6.0, what=what)
    step = 4.0 * out * into * (k + shared) + 16.0 * out * into
    return Route(found.words, found.operations + settings["steps"] * step, found.workspace + WIDE * out * shared)


def common(deltas: list[Tensor], part: float) -> Tensor:
    """Left directions (..., out, q), orthonormal or zero, that tasks' leading ones have most in common.

    They are a part of min(out, in) by number, without those that tie with the next one: nothing tells them apart.
    """
    import torch

    from mergery.kernels.spectral import svd

    smaller = min(deltas[0].shape[-2:])
    count = int(smaller * part + TIE)
    mine = own_share(smaller, len(deltas))
    u, s, _ = svd(torch.cat([svd(delta, mine)[0] for delta in deltas], dim=-1))
    if count < s.shape[-1]:
        s = s * (s > (1.0 + TIE) * s[..., count : count + 1])
    return (u * (s > 0.0).unsqueeze(-2))[..., :count]


def change(deltas: list[Tensor], factors: list[Tensor], basis: Tensor, steps: int, rate: float) -> Tensor:
    """The D at which each task's rows answer to sum_i f_i (d_i + D) nearly as to their own, by Adam from zero.

    The loss is sum_j sum_rows (d_j . (d_j - sum_i f_i (d_i + D)))^2; its gradient is taken outside the basis.
    """
    from mergery.methods._adam import ROUNDING, walk

    whole, force = deltas[0] * 0.0, factors[0] * 0.0
    for delta, factor in zip(deltas, factors, strict=True):
        whole, force = whole + delta * factor, force + factor
    gaps = []
    for delta in deltas:
        own, other = delta.square().sum(-1, keepdim=True), (delta * whole).sum(-1, keepdim=True)
        gap = own - other
        gaps.append(gap.where(gap.abs() > ROUNDING * own.maximum(other.abs()), 0.0))

    def slope(point: Tensor) -> Tensor:
        pull = point * 0.0
        for delta, gap in zip(deltas, gaps, strict=True):
            pull = pull - 2.0 * force * (gap - force * (delta * point).sum(-1, keepdim=True)) * delta
        free = pull - basis @ (basis.mT @ pull)
        return free.where(free.abs() > ROUNDING * pull.abs().amax((-2, -1), keepdim=True), 0.0)

    return walk(whole * 0.0, slope, steps, rate)


@method(
    paper="2501.01230",
    unit="matrix",
    check=check_steps,
    roles=LINEAR,
    presets={"paper": Preset({"size": 0.07, "rate": 1e-4}, rest="base")},
    routing=routing,
    weighs="factors",
)
def doge(
    deltas: Deltas,
    *,
    weight: PerModel[float] = each(1.0),
    size: float | None = None,
    shared: Fraction = 1 / 6,
    steps: int = 400,
    rate: float | None = None,
    density: Fraction = 0.3,
) -> Tensor:
    """Add task vectors of equal length, after one change to them all that makes up for their conflicts.

        d_i = x_i - base;   f_i = w_i size / |d_i|
        L(D) = sum_j sum_rows (d_j . (d_j - sum_i f_i (d_i + D)))^2, . between rows of the same neuron
        D from 0 by Adam on the gradient of L without its part along the shared left directions
        out = base + sum_i f_i (d_i + D) on the largest entries of d_i

    L is least where the sum answers to each task's own direction as the task vector itself does. The shared
    directions are the leading left singular vectors of [U_1 .. U_k], the first floor(min(out, in) / k) left singular
    vectors of each task; they stay as they are.

    Settings:
        weight: factor of each task's coefficient.
        size: length of each task's vector in the sum, in the units of the weights. Without one, the mean length
            over k, so that all begins at a mean, which is Mergery's choice; 0.07 for vision models in the authors' code.
        shared: number of the shared directions, as a part of min(out, in).
        steps: how many steps Adam takes.
        rate: its learning rate, in the units of the weights. Without one, a tenth of the root mean square of the task
            vectors, which is Mergery's choice; 1e-4 in the authors' code, about that for vision models.
        density: fraction of the entries of each task vector that is kept.

    Source: Wei et al. 2025, Modeling multi-task model merging as adaptive projective gradient descent
    (arXiv 2501.01230). In the authors' code the largest entries are those of the whole model, and one more, here those
    of each matrix; below a density of 1 an entry that has not changed is never kept. Shared
    directions that tie with one beyond their number are left out. The preset `paper` leaves everything but the
    matrices of attention and MLPs as in the base.

    Use it for several fine-tunes of one base whose tasks conflict, where time matters little: each of its steps
    costs more than a plain merge.
    """
    import torch

    from mergery.kernels.spectral import dense, largest, norm

    full = [delta.double() for delta in dense(deltas)]
    lengths = [norm(delta) for delta in full]
    every = torch.stack(lengths)
    mean = every.mean(0)
    entries = full[0].shape[-2] * full[0].shape[-1]
    unit = torch.ones_like(mean)
    if rate is None:
        unit = (every.square().mean(0) / entries).sqrt()
        unit = unit.where(unit > 0.0, 1.0)
    goal = mean / len(full) if size is None else size
    factors = [
        float(factor) * goal / length.where(length > 0.0, 1.0) for factor, length in zip(weight, lengths, strict=True)
    ]
    pace = PACE if rate is None else rate
    moved = unit * change([delta / unit for delta in full], factors, common(full, shared), steps, pace)
    among = torch.full(full[0].shape[:-2], entries, device=moved.device)
    terms = [
        ((largest(delta, density, among) != 0.0) | (density == 1.0)) * (delta + moved) * factor
        for delta, factor in zip(full, factors, strict=True)
    ]
    return sum(terms[1:], start=terms[0])
