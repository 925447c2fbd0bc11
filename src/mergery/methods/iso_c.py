"""Iso-C: the sum of the task vectors with one singular value for all directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergery.method import Auto, Deltas, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR, MATRICES
from mergery.method.routing import Route
from mergery.methods._routes import by_svd, then_scaled
from mergery.methods._scale import scaled


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return then_scaled(by_svd(k, out, into, 1, what="1 thin SVD"), k, out, into)


@method(
    paper="2502.04959",
    unit="matrix",
    roles=LINEAR,
    presets={
        "paper": Preset(
            {"scale": 1.3}, roles=MATRICES, rest={"method": "task_arithmetic", "normalize": True, "scale": 1.3}
        )
    },
    routing=routing,
    weighs="factors",
)
def iso_c(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    scale: Auto = "auto",
) -> MergedDelta:
    """Add the task vectors and give every direction of the sum the same weight.

        sum_i w_i (x_i - base) = U S V^T;   out = base + scale * s U V^T   with s the mean of the singular values

    The sum of singular values stays. Only directions of numerical rank (singular values above 1e-6 of the
    largest, and above what rounding to 16 bits has by itself) take part, in the mean and in U V^T: a sum of low rank stays
    of low rank, where the formula read to the letter would give directions that no task knows the full weight s.

    Settings:
        weight: factor of each task vector.
        scale: factor of the merged task vector. `auto` finds one for each matrix, between that of unit response, at
            which it answers to each task's own vector as that does itself, k / sum_i (<D, d_i> / |d_i|^2), and that of
            least interference, at which it disturbs the tasks least; for adapters the latter. Nothing is tuned; the
            paper tunes a scale on validation data, to 1.3 to 1.5 for eight tasks.

    Source: Marczak et al. 2025, No task left behind (arXiv 2502.04959). The preset `paper` is that of ViT-B/32 with
    eight tasks: scale 1.3 for every matrix, embeddings and head included, and 1.3 times the mean task vector for
    the rest.

    Use it for many fine-tunes of one base whose sum is dominated by a few directions that they share. One model
    alone does not come back unchanged.
    """
    from mergery.kernels.spectral import framed, noise_of, noise_of_sum, total
    from mergery.kernels.ways import soundly

    cores, frame = framed(deltas)
    bounds = noise_of(deltas, noise)
    whole, bound = total(cores, weight), noise_of_sum(bounds, weight)
    merged = soundly(lambda way: way.flat(whole, noise=bound), [whole], fast=True)
    return frame.restore(scaled(merged, scale, cores, weight, frame, bounds))
