"""DC-Merge: merge in a basis of both sides that all tasks' leading directions share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Auto, Deltas, Fraction, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR, MATRICES
from mergery.method.routing import Route
from mergery.methods._routes import HALF, WIDE, by_leading, then_scaled
from mergery.methods._scale import scaled
from mergery.methods._thinning import combine
from mergery.methods.tsv_merge import fast_products, joined, product_dtype, share, shares, stacked

if TYPE_CHECKING:
    from mergery.kernels.ways import Way


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    count = share(min(out, into), k)
    wide = k * count
    route = by_leading(
        k,
        out,
        into,
        count,
        single=fast_products(settings, out, wide),
        square=1.0,
        what=f"{k} thin SVDs and 2 polar factors",
    )
    alone, tasks = (1, 1.0) if settings["blocks"] else (12, float(k))  # matrices in which signs are elected, all M_i
    inside = (out + into + (7.0 + 2.0 * settings["density"] + alone + tasks) * wide) * wide
    work = (
        route.operations
        + 2.0 * HALF * wide**3
        + 2.0 * k * count * wide**2
        + 2.0 * out * wide**2 / (1 + 2 * (alone == 1))
    )
    route = replace(route, operations=work, workspace=max(route.workspace, int(WIDE * inside)))
    return then_scaled(route, k, out, into)


def check_ratio(settings: Mapping[str, Any]) -> None:
    if settings["ratio"] < 1.0:
        raise RecipeError(
            "ratio must be at least 1", why="it is that of the first singular value to the last", hint="ratio: 5"
        )


def smoothed(s: Tensor, smooth: str, ratio: float) -> Tensor:
    """Singular values (..., r) that are not zero, as they are, all equal, or falling in a line; their sum stays."""
    import torch

    if smooth == "none":
        return s
    there = s > 0.0
    count = there.sum(-1, keepdim=True)
    place = torch.arange(s.shape[-1], dtype=s.dtype, device=s.device) / (count - 1).clamp(min=1)
    line = torch.ones_like(s) if smooth == "mean" else ratio - (ratio - 1.0) * place
    line = line * there
    whole = line.sum(-1, keepdim=True)
    return line * (s.sum(-1, keepdim=True) / whole.where(whole > 0.0, 1.0))


def standing_out(inside: Tensor, density: float, entries: Tensor, blocks: Sequence[slice], way: Way) -> list[Tensor]:
    """The largest entries of an M_i (..., n, n), zero elsewhere, in some of its diagonal blocks."""
    from mergery.kernels.spectral import cleared, largest

    kept = largest(cleared(inside), density, entries)
    way.check_choice(inside, kept)
    return [kept[..., block, block].clone() for block in blocks]


@method(
    paper="2603.06242",
    unit="matrix",
    check=check_ratio,
    roles=LINEAR,
    presets={
        "paper": Preset({"scale": 1.0, "density": 0.001}, roles=MATRICES),
        "adapters": Preset({"scale": 1.0, "density": 1.0, "smooth": "mean"}),
    },
    routing=routing,
    weighs="factors",
)
def dc_merge(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    smooth: Literal["none", "mean", "linear"] = "none",
    ratio: float = 5.0,
    density: Fraction = 0.001,
    blocks: bool = True,
    precision: Literal["fast", "exact"] = "fast",
    scale: Auto = "auto",
) -> MergedDelta:
    """Write all task vectors in shared orthonormal directions, and elect signs there as TIES does.

        x_i - base = U_i S_i V_i^T, of which the leading r = floor(min(out, in) / k) triplets are kept
        P = polar([U_1 .. U_k]), Q = polar([V_1 .. V_k]);   M_i = P^T (U_i S_i V_i^T) Q
        keep the largest entries of each M_i, elect signs, average those that agree, keep the k diagonal blocks: M
        out = base + scale * P M Q^T

    Entries of M_i below 1e-6 of its largest are zero, and triplets that rounding to 16 bits may have made by itself are
    left out.

    Settings:
        weight: factor of each task's M_i.
        smooth: even out the singular values of each task first, their sum staying: to their mean, or to a line; for
            adapters, whose energy stands in a few.
        ratio: of the first singular value of the line to the last.
        density: fraction of the entries of M_i that is kept; 0.001 in the authors' code, which is about the diagonal.
        blocks: keep what joins directions of one task only.
        precision: `fast` makes the last products of large matrices in float32, and the polar factors, which changes the
            merged task vector by a few millionths, unless an entry of M_i lies so near to the last that is kept;
            `exact` makes all in float64.
        scale: factor of the merged task vector. `auto` finds one for each matrix, between that of unit response, at
            which it answers to each task's own vector as that does itself, k / sum_i (<D, d_i> / |d_i|^2), and that of
            least interference, at which it disturbs the tasks least; for adapters the latter. Nothing is tuned; the
            paper's scale is 1.

    Source: Zhang et al. 2026, DC-Merge (arXiv 2603.06242), from the description of its code; the line and the preset
    `adapters` are reconstructed. The preset `paper` also merges embeddings and head this way. Everything else is
    averaged.

    Use it as `tsv_merge`, where tasks share directions that its orthogonal factors would double.
    """
    import torch

    from mergery.kernels.spectral import framed, noise_of, rank
    from mergery.kernels.ways import soundly

    cores, frame = framed(deltas)
    kept, bounds = shares(deltas, frame.smaller), noise_of(deltas, noise)
    single = precision == "fast"

    def made(way: Way) -> Tensor:
        sizes, lefts, rights = stacked(
            way.svd(core, count, noise=bound) for core, count, bound in zip(cores, kept, bounds, strict=True)
        )
        # P^T U_i are columns of the other factor
        left, above = way.parted(joined(lefts))
        right, beside = way.parted(joined(rights))
        entries = rank(torch.cat(sizes, dim=-1)).square()
        ends = list(accumulate(s.shape[-1] for s in sizes))
        places = [slice(end - s.shape[-1], end) for end, s in zip(ends, sizes, strict=True)]
        chosen = places if blocks else [slice(None)]
        inside = []
        for place, s in zip(places, sizes, strict=True):
            sized = above[..., place].to(s.dtype) * smoothed(s, smooth, ratio).unsqueeze(-2)
            whole = sized @ beside[..., place, :].to(s.dtype)
            inside.append(standing_out(whole, density, entries, chosen, way))
        del above, beside
        dtype = product_dtype(left, single=single)
        turned = left.to(dtype)
        del left
        for block, of_tasks in zip(chosen, zip(*inside, strict=True), strict=True):
            way.check_vote(of_tasks, weight)
            turned[..., block] = turned[..., block] @ combine(of_tasks, weight, elect=True, normalize=True).to(dtype)
        return turned @ right.to(dtype).mT

    merged = soundly(made, cores, fast=single)
    return frame.restore(scaled(merged, scale, cores, weight, frame, bounds))
