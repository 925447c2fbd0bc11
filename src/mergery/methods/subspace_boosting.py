"""Subspace boosting: raise the small singular values of a merged task vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergery.method import Auto, Deltas, Fraction, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import by_svd, then_scaled
from mergery.methods._scale import scaled


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return then_scaled(by_svd(k, out, into, 1, what="1 thin SVD"), k, out, into)


def boosted(s: Tensor, beta: float) -> Tensor:
    """Singular values (..., r), largest first, where none but zeros lies below the one at which the sum reaches beta."""
    so_far = s.cumsum(-1)
    reached = so_far >= beta * so_far[..., -1:]
    place = reached.to(s.dtype).argmax(-1, keepdim=True)
    return s.maximum(s.gather(-1, place)) * (s > 0.0)


@method(
    paper="2506.16506",
    unit="matrix",
    roles=LINEAR,
    presets={"paper": Preset({"scale": 1.0})},
    routing=routing,
    weighs="factors",
)
def subspace_boosting(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    beta: Fraction = 0.01,
    scale: Auto = "auto",
) -> MergedDelta:
    """Add the task vectors and raise the weak directions of the sum to a level.

        sum_i w_i (x_i - base) = U diag(s_1 >= s_2 >= ..) V^T;   j the first with s_1 + .. + s_j >= beta sum_i s_i
        out = base + scale * U diag(max(s_i, s_j)) V^T

    With a small beta the level is the largest singular value, or close to it. Directions of no numerical rank (singular
    values below 1e-6 of the largest, or below what rounding to 16 bits has by itself) stay out; the formula read to the
    letter would raise them too.

    Settings:
        weight: factor of each task vector.
        beta: the share of the sum of singular values that sets the level, in [0, 1]; the authors' code takes 0.01
            and tries 0 to 0.02. 1 raises nothing.
        scale: factor of the merged task vector. `auto` finds one for each matrix, between that of unit response, at
            which it answers to each task's own vector as that does itself, k / sum_i (<D, d_i> / |d_i|^2), and that of
            least interference, at which it disturbs the tasks least; for adapters the latter. Nothing is tuned; in the
            paper a scale is tuned on validation data, and the preset `paper` sets 1.

    Source: Skorobogat, Roth and Georgescu 2025, Subspace-boosted model merging (arXiv 2506.16506), on a host of
    task arithmetic; details from the descriptions of ports, as the paper's own code was not at hand.

    Use it for many fine-tunes of one base, whose sum is nearly of low rank because what they share adds up and what
    each has alone does not.
    """
    from mergery.kernels.spectral import framed, noise_of, noise_of_sum, total
    from mergery.kernels.ways import soundly

    cores, frame = framed(deltas)
    bounds = noise_of(deltas, noise)
    whole, bound = total(cores, weight), noise_of_sum(bounds, weight)
    merged = soundly(lambda way: way.recast(whole, lambda u, s, vh: boosted(s, beta), noise=bound), [whole], fast=True)
    return frame.restore(scaled(merged, scale, cores, weight, frame, bounds))
