"""Iso-CTS: a flat spectrum over common and task-specific directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from mergery.method import Auto, Deltas, Fraction, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR, MATRICES
from mergery.method.routing import Route
from mergery.methods._routes import HALF, LEADING, SINGLE, by_svd, decomposition, polar_work, then_scaled
from mergery.methods._scale import scaled
from mergery.methods.tsv_merge import fast_products, product_dtype


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    small = min(out, into)
    kept, own = split(small, k, settings["common"])
    rest = k * own
    single = fast_products(settings, out, into)
    rate = 0.5 if single else 1.0  # of products in float32
    work = polar_work(into, small, single=single) + 2.0 * rate * out * into * small
    if out <= into:  # what tasks have left is a small problem
        work += decomposition(out, into) + k * (2.0 * rest * out * into + decomposition(rest, into))
        work += decomposition(rest, rest) + 2.0 * out * rest**2
    else:
        work += HALF * out * into**2 + LEADING * into**3 + 2.0 * rate * out * into * kept
        seen = (k - 1 if single else k) * kept + k * own  # in float32 that of the last task follows
        work += rate * (2.0 * out * into * seen + k * HALF * (out + kept) * into**2)
        work += k * (SINGLE if single else LEADING) * into**3 + polar_work(out, rest)
    route = by_svd(k, out, into, 1, polars=1, held=3.0, what=f"{k + 1} thin SVDs and 2 polar factors")
    return then_scaled(replace(route, operations=work), k, out, into, held=6.5)


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
    weighs="factors",
)
def iso_cts(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    common: Fraction = 0.8,
    precision: Literal["fast", "exact"] = "fast",
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
        precision: `fast` makes the last product of large matrices in float32, the polar factors, and what is left of tasks
            with more outputs than inputs, which changes the merged task vector by a few millionths; `exact` makes all in
            float64.
        scale: factor of the merged task vector. `auto` finds one for each matrix, between that of unit response, at
            which it answers to each task's own vector as that does itself, k / sum_i (<D, d_i> / |d_i|^2), and that of
            least interference, at which it disturbs the tasks least; for adapters the latter. Nothing is tuned; the
            paper tunes a scale on validation data, to 1.5 to 1.9 for eight tasks.

    Source: Marczak et al. 2025, No task left behind (arXiv 2502.04959). As in the authors' code only the common left
    directions are taken out of a task. The preset `paper` is that of ViT-B/32 with eight tasks: scale 1.5 for every
    matrix, embeddings and head included, and 1.5 times the mean task vector for the rest.

    Use it for many fine-tunes, about a dozen or more, of one base, where Iso-C begins to lose what only one task
    knows.
    """
    import torch

    from mergery.kernels.spectral import at_most, flat_level, framed, noise_of, noise_of_sum, norm, total
    from mergery.kernels.ways import Way, soundly

    cores, frame = framed(deltas)
    single = precision == "fast"
    bounds = noise_of(deltas, noise)
    kept, own = split(frame.smaller, len(cores), common)
    whole = total(cores, weight)
    wide = whole.shape[-2] <= whole.shape[-1]
    bound_of_sum = noise_of_sum(bounds, weight)

    def made(way: Way) -> Tensor:
        apart = None
        if wide:  # what a task has left lies in the span of the other vectors: a small problem
            right, levels, left, others = way.opened(whole.mT, kept, noise=bound_of_sum)
            shared, right = left.mT, right.mT
            apart = others if bool((levels > 0.0).all()) else None
        else:
            shared, levels, right = way.common(whole, kept, noise=bound_of_sum)
        lefts, sizes, rights = [], [levels], [right]
        still = way.ahead(levels, right) if own and not wide else None
        for delta, core, factor, bound in zip(deltas, cores, weight, bounds, strict=True) if own else ():
            count, last = at_most(own, delta), len(lefts) == len(cores) - 1
            task = (core if single else core.to(levels.dtype)) * float(factor)
            of, noisy = norm(task)[..., 0, 0], bound * abs(float(factor))
            if apart is not None:
                u, s, vh = way.svd(apart.mT @ task.to(apart.dtype), count, of=of, noise=noisy, products=1)
            else:
                u, s, vh = way.beyond(shared, task, count, of=of, noise=noisy, still=still, last=last)
            lefts.append(u)
            sizes.append(s)
            rights.append(vh)
        left = shared
        if lefts:  # the tasks' own directions are at right angles to the common ones
            own_left = way.polar(torch.cat(lefts, dim=-1))
            own_left = own_left if apart is None else apart.to(own_left.dtype) @ own_left
            left = torch.cat([shared.to(own_left.dtype), own_left], dim=-1)
        level = flat_level(torch.cat(sizes, dim=-1))
        left *= level.unsqueeze(-2)
        right = way.polar(torch.cat(rights, dim=-2))
        dtype = product_dtype(left, single=single)
        return left.to(dtype) @ right.to(dtype)

    merged = soundly(made, cores, fast=single)
    return frame.restore(scaled(merged, scale, cores, weight, frame, bounds))
