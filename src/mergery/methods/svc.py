"""SVC: a sum of task vectors whose directions are scaled back to what each task had there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergery.errors import RecipeError
from mergery.method import Auto, Deltas, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR, MATRICES
from mergery.method.routing import Route
from mergery.methods._routes import by_svd, then_scaled
from mergery.methods._scale import scaled


def check_alpha(settings: Mapping[str, Any]) -> None:
    if settings["alpha"] is not None and settings["alpha"] <= 0.0:
        raise RecipeError(
            "alpha must be positive", why="the calibration divides by what it bounds from below", hint="alpha: 1"
        )


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return then_scaled(by_svd(k, out, into, 1, what="1 thin SVD"), k, out, into)


@method(
    paper="2602.05536",
    unit="matrix",
    check=check_alpha,
    roles=LINEAR,
    presets={"paper": Preset({"weight": 0.3, "alpha": None, "scale": 1.0}, roles=MATRICES)},
    routing=routing,
    weighs="factors",
)
def svc(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    alpha: float | None = 1.0,
    scale: Auto = "auto",
) -> MergedDelta:
    """Add the task vectors and scale each singular value back by how much the sum overstates the tasks there.

        d_i = x_i - base;   U S V^T = sum_i w_i d_i;   p_ri = (s_r v_r . u_r^T d_i) / |u_r^T d_i|^2
        g_r = k / sum_i max(alpha, p_ri);   out = base + scale * U diag(g_r s_r) V^T

    p_ri is how long the sum's answer along u_r is, measured along task i's own: above 1 where tasks share the
    direction and have been counted several times. Identical models come back as one, at any alpha up to k, and tasks
    that share nothing are summed at alpha 1. A task without an answer along u_r (below 1e-6 of its length) counts
    with alpha. Directions that rounding to 16 bits may have made by itself are left out.

    Settings:
        weight: factor of each task vector in the sum; 0.3 in the paper's task arithmetic.
        alpha: the least that a task counts. 1 never enlarges a direction; without one 1 / k, the paper's choice,
            which enlarges those that few tasks use.
        scale: factor of the merged task vector. `auto` finds one for each matrix, between that of unit response, at
            which it answers to each task's own vector as that does itself, k / sum_i (<D, d_i> / |d_i|^2), and that of
            least interference, at which it disturbs the tasks least; for adapters the latter. Nothing is tuned; the
            paper's scale is 1.

    Source: Li et al. 2026, When shared knowledge hurts (arXiv 2602.05536), singular value calibration on a host of
    task arithmetic, from descriptions of the paper and of a port; the bound where a task has no answer is
    reconstructed. The preset `paper` also merges embeddings and head this way. Everything else is averaged.

    Use it where task arithmetic needs a low scale because fine-tunes of one base share much of what they learned.
    """
    from mergery.kernels.spectral import RANK, framed, noise_of, noise_of_sum, norm, total
    from mergery.kernels.ways import Way, soundly

    cores, frame = framed(deltas)
    bounds = noise_of(deltas, noise)
    whole, bound = total(cores, weight), noise_of_sum(bounds, weight)
    least = 1.0 / len(cores) if alpha is None else alpha

    def made(way: Way) -> Tensor:
        def calibrated(u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
            answer = s.unsqueeze(-1) * vh
            counted = s * 0.0
            for core in cores:
                own = u.mT @ core.to(u.dtype)
                size, smallest = own.square().sum(-1), RANK * norm(core)[..., 0]
                way.check_sizes(size.sqrt(), smallest)
                there = size > smallest.square()
                counted = counted + ((answer * own).sum(-1) * there / size.where(there, 1.0)).clamp(min=least)
            return s * (len(cores) / counted)

        return way.recast(whole, calibrated, noise=bound)

    merged = soundly(made, [whole], fast=True)
    return frame.restore(scaled(merged, scale, cores, weight, frame, bounds))
