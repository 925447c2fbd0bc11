"""Iso-CTS: a flat spectrum over common and task-specific directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from mergery.method import Auto, Deltas, Fraction, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR, MATRICES
from mergery.method.routing import Route
from mergery.methods._routes import by_svd
from mergery.methods._scale import scaled


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return by_svd(k, out, into, k + 1, polars=1, held=1.5, what=f"{k + 1} thin SVDs and 2 polar factors")


def split(smaller: int, k: int, common: float) -> tuple[int, int]:
    """How many directions are common, and how many each task has for itself."""
    own = round((smaller - int(smaller * common)) / k)
    own = min(own, smaller // k)
    return smaller - own * k, own


@method(
    paper="2502.04959",
    unit="matrix",
    roles=LINEAR,
    presets={
        "paper": Preset(
            {"scale": 1.5}, roles=MATRICES, rest={"method": "task_arithmetic", "normalize": True, "scale": 1.5}
        )
    },
    routing=routing,
)
def iso_cts(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    common: Fraction = 0.8,
    scale: Auto = "auto",
) -> MergedDelta:
    """Give the same weight to the leading directions of the sum and to each task's own beyond them.

        U S V^T = sum_i w_i (x_i - base), of which the leading c = common min(out, in) triplets stay
        each task adds the leading q = (min(out, in) - c) / k triplets of (I - U_c U_c^T) w_i (x_i - base)
        out = base + scale * s P([U_1 .. U_k, U_c]) P([V_1 .. V_k, V_c])^T

    s is the mean of all these singular values and P the orthogonal polar factor; c and q are rounded so that they
    add up. Directions of no numerical rank (singular values below 1e-6 of the largest, or below what rounding to 16 bits
    has by itself) are left out everywhere. With `common` 1 it is Iso-C.

    Settings:
        weight: factor of each task vector.
        common: fraction of the directions that is taken from the sum; 0.8 in the paper.
        scale: factor of the merged task vector. `auto` is unit response: each matrix is scaled so that, on average over the
            tasks, it answers to a task's own vector as that does itself: by k / sum_i (<D, d_i> / |d_i|^2). Nothing is
            tuned; the paper tunes a scale on validation data, to 1.5 to 1.9
            for eight tasks.

    Source: Marczak et al. 2025, No task left behind (arXiv 2502.04959). As in the authors' code only the common left
    directions are taken out of a task. The preset `paper` is that of ViT-B/32 with eight tasks: scale 1.5 for every
    matrix, embeddings and head included, and 1.5 times the mean task vector for the rest.

    Use it for many fine-tunes, about a dozen or more, of one base, where Iso-C begins to lose what only one task
    knows.
    """
    import torch

    from mergery.kernels.spectral import flat_level, framed, noise_of, noise_of_sum, norm, polar, svd, total

    cores, frame = framed(deltas)
    bounds = noise_of(deltas, noise)
    kept, own = split(frame.smaller, len(cores), common)
    triplets = [svd(total(cores, weight), kept, noise=noise_of_sum(bounds, weight))]
    shared = triplets[0][0]
    for core, factor, bound in zip(cores, weight, bounds, strict=True) if own else ():
        rest = core.double() * float(factor)
        size = norm(rest)[..., 0, 0]
        triplets.append(svd(rest - shared @ (shared.mT @ rest), own, of=size, noise=bound * abs(float(factor))))
    left = polar(torch.cat([u for u, _, _ in triplets], dim=-1))
    right = polar(torch.cat([vh for _, _, vh in triplets], dim=-2))
    level = flat_level(torch.cat([s for _, s, _ in triplets], dim=-1))
    return frame.restore(scaled(left * level.unsqueeze(-2) @ right, scale, cores, weight))
