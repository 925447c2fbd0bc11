"""TSV-Merge: the leading singular vectors of all tasks, made orthogonal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mergery.method import Auto, Deltas, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR, MATRICES
from mergery.method.routing import Route, of_cores
from mergery.methods._routes import LARGE, WIDE, by_leading, then_scaled
from mergery.methods._scale import scaled

if TYPE_CHECKING:
    import torch


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    count, polarised = share(min(out, into), k), bool(settings["polarise"])
    route = by_leading(
        k, out, into, count, single=fast_products(settings, out, k * count), what=f"{k} thin SVDs and 2 polar factors"
    )
    if polarised:  # the task vectors are there once more, in float64
        route = replace(route, workspace=route.workspace + WIDE * (k + 1) * out * into)
    return then_scaled(route, k, out, into, held=2.5 + k * polarised)


def factored(k: int, out: int, into: int, rank: int, settings: Mapping[str, Any]) -> Route | None:
    return None if settings["polarise"] else of_cores(routing)(k, out, into, rank, settings)


def fast_products(settings: Mapping[str, Any], *sides: int) -> bool:
    """Whether products of factors with such sides are made in float32."""
    return settings["precision"] == "fast" and min(sides) >= LARGE


def share(smaller: int, k: int) -> int:
    """How many singular triplets a task keeps of a matrix whose smaller side is given; at least one."""
    return max(1, smaller // k)


def combine(
    cores: Sequence[Tensor], kept: Sequence[int], weight: Any, noise: Sequence[Tensor | float], *, single: bool = False
) -> Tensor:
    """P(U) S P(V)^T of the leading triplets of tasks' cores, stacked: in float64, or with `single` where that is faster in
    float32.

    `kept` is how many each keeps, `noise` what rounding may have of it.
    """
    import torch

    from mergery.kernels.ways import Way, soundly

    def made(way: Way) -> Tensor:
        sizes, lefts, rights = stacked(
            way.svd(core, count, noise=bound) for core, count, bound in zip(cores, kept, noise, strict=True)
        )
        left = way.polar(joined(lefts))
        right = way.polar(joined(rights).mT)
        size = torch.cat([s * float(factor) for s, factor in zip(sizes, weight, strict=True)], dim=-1)
        dtype = product_dtype(left, single=single)
        return (left.to(dtype) * size.unsqueeze(-2).to(dtype)) @ right.to(dtype)

    return soundly(made, cores, fast=single)


def shares(deltas: Sequence[Tensor], smaller: int) -> list[int]:
    """How many singular triplets each task keeps: its share, or as many as its factors have, where it is given as such."""
    from mergery.kernels.spectral import at_most

    return [at_most(share(smaller, len(deltas)), delta) for delta in deltas]


def stacked(triplets: Iterable[tuple[Tensor, Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Singular values of tasks, their left vectors (..., out, r), and their right ones (..., in, r)."""
    sizes: list[Tensor] = []
    lefts: list[Tensor] = []
    rights: list[Tensor] = []
    for u, s, vh in triplets:
        lefts.append(u)
        sizes.append(s)
        rights.append(vh.mT)
    return sizes, lefts, rights


def joined(columns: list[Tensor]) -> Tensor:
    """Matrices (..., m, r) side by side: they are taken out of the list, so that they are in memory once."""
    import torch

    whole = torch.cat(columns, dim=-1)
    columns.clear()
    return whole


def product_dtype(left: Tensor, *, single: bool) -> torch.dtype:
    """That of a product of factors with orthonormal columns (..., m, r), which rounds by about what its own dtype does: with
    `single` float32 where the matrices are large.
    """
    import torch

    return torch.float32 if single and min(left.shape[-2:]) >= LARGE else left.dtype


def polarised(deltas: Sequence[Tensor], noise: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Task vectors (..., out, in) times the square of their relative length, and their columns times that of the columns of
    all tasks together; and what rounding may have of each then.
    """
    import torch

    from mergery.kernels.spectral import norm

    sizes = torch.stack([norm(delta) for delta in deltas])
    gains = relative(sizes, sizes.mean(0))
    columns = (sizes * 0.0).sum(0)
    for delta, gain in zip(deltas, gains, strict=True):
        columns = columns + (delta.double() * gain).square().sum(-2, keepdim=True)
    lengths = columns.sqrt()
    spread = relative(lengths, lengths.mean(-1, keepdim=True))
    out, into = deltas[0].shape[-2:]
    most = out**0.5 * spread.amax((-2, -1)) + torch.linalg.vector_norm(spread, dim=(-2, -1))
    wider = most / (out**0.5 + into**0.5)
    return (
        [delta.double() * gain * spread for delta, gain in zip(deltas, gains, strict=True)],
        [bound * gain[..., 0, 0] * wider for bound, gain in zip(noise, gains, strict=True)],
    )


def relative(size: Tensor, mean: Tensor) -> Tensor:
    """The square of sizes over their mean; 0 where all are."""
    return (size / mean.where(mean > 0.0, 1.0)).square()


@method(
    paper="2412.00081",
    unit="matrix",
    roles=LINEAR,
    presets={"paper": Preset({"scale": 1.0}, roles=MATRICES)},
    routing=routing,
    factored=factored,
    weighs="factors",
)
def tsv_merge(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    polarise: bool = False,
    precision: Literal["fast", "exact"] = "fast",
    scale: Auto = "auto",
) -> MergedDelta:
    """Keep each task's leading singular vectors and make those of different tasks orthogonal.

        x_i - base = U_i S_i V_i^T, of which the leading r = floor(min(out, in) / k) triplets are kept
        out = base + scale * P([U_1 .. U_k]) diag(w_1 S_1 .. w_k S_k) P([V_1 .. V_k])^T

    P is the orthogonal polar factor: the nearest matrix with orthonormal columns. Where task vectors coincide
    the stacked vectors are dependent, and P is taken on what they span, so that identical models come back as one;
    the plain factor would fill up with arbitrary directions. With more models than min(out, in) each keeps one
    triplet. Triplets that rounding to 16 bits may have made by itself are left out.

    Settings:
        weight: factor of each task's singular values.
        polarise: first multiply each task vector by the square of its length over the tasks' mean, and each column by that of
            its length, over all tasks, to the columns' mean: what stands out counts for more, as in ESM.
        precision: `fast` makes the last product of large matrices in float32, and the polar factors, which changes the
            merged task vector by a few millionths; `exact` makes all in float64.
        scale: factor of the merged task vector. `auto` finds one for each matrix, between that of unit response, at
            which it answers to each task's own vector as that does itself, k / sum_i (<D, d_i> / |d_i|^2), and that of
            least interference, at which it disturbs the tasks least; for adapters the latter. Nothing is tuned; the
            paper's scale is 1, right where tasks are orthogonal.

    Source: Gargiulo et al. 2025, Task singular vectors (arXiv 2412.00081). The preset `paper` also merges
    embeddings and head this way, as the authors' code does with all matrices, and sets scale to 1. Everything else
    is averaged. The polarisation is of ESM (arXiv 2602.20208), which has it for tasks, inputs and layers; that of layers
    would need all of them at once and is left out.

    Use it for several fine-tunes of one base on different tasks, where averages lose what each has learned.
    """
    from mergery.kernels.spectral import dense, framed, noise_of

    deltas = dense(deltas) if polarise else deltas
    cores, frame = framed(deltas)
    bounds = noise_of(deltas, noise)
    inputs, own = polarised(cores, bounds) if polarise else (list(cores), bounds)
    merged = combine(inputs, shares(deltas, frame.smaller), weight, own, single=precision == "fast")
    return frame.restore(scaled(merged, scale, cores, weight, frame, bounds))
