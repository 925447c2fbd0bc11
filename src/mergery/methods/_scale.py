"""The outer scale of a merged task vector, where the recipe does not give it.

A merged matrix D of task vectors d_i (out, in) is scaled so that it disturbs the tasks least, along its own direction:

    l = sum_i (<D, d_i>_i / |d_i|_i^2) / sum_i (|D|_i^2 / |d_i|_i^2)
    <A, B>_i = t_i <A d_i^T, B d_i^T> / |d_i|^2 + (1 - t_i) <A, B> / in

Inputs of task i are taken to be what the rows of d_i are, as far as it can be trusted to show them, and anything else alike. A
matrix that was trained whole is a sum of its inputs: t_i is 1. An adapter's rows are the random directions in which its
training began: t_i is its rank over the smaller side. With all t_i zero, a sum is scaled to the mean.

Methods that already look for the least interference have l = 1 where all is trusted. Others change the directions as well, and
what they make may stand for more than it is along those of the tasks: they have the geometric mean of l and unit response,
at which D answers to each d_i as that does itself, on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergery.methods._routes import PROBES

if TYPE_CHECKING:
    from torch import Tensor

    from mergery.kernels.spectral import Frame

PART = 4  # an adapter's rank is less than this part of the smaller side; what has more is whole
MARGIN = 32  # rows and columns more than that, so that none of so many is small by chance
CLEAR = 1.5  # times the largest singular value that rounding is expected to have
FAINT = 1e-4  # of the largest: directions that rounding may have made
Scale = float | str


def of_sum(settings: Mapping[str, Any]) -> float:
    """The scale of a sum of k task vectors: k^(-3/4) where every weight is 1 and nothing is divided by, else 1."""
    if settings.get("normalize"):
        return 1.0
    return of_terms(settings["weight"], len(settings["weight"]))


def of_terms(weight: Any, terms: float) -> float:
    """The same of a sum in which so many task vectors meet in an entry.

    The geometric mean of two that are right at the ends: 1 / k, the average, where all tasks feel all task vectors alike, and
    1 / sqrt(k), at which a sum of unrelated ones is as long as one.
    """
    return max(1.0, terms) ** -0.75 if bool((weight == 1.0).all()) else 1.0


def scaled(
    merged: Tensor, scale: Scale, deltas: Sequence[Tensor], weight: Any, frame: Frame, noise: Sequence[Tensor]
) -> Tensor:
    """A merged task vector (..., out, in), float64, times its scale, in its place: a number; or, for `auto`, that of a method
    which turns or levels directions, sqrt(u l)^t l^(1 - t) with u unit response and t the mean trust. `noise` is what
    rounding may have of each task vector (`mergery.kernels.spectral.noise_of`).
    """
    if isinstance(scale, str):
        trusts = [trust(delta, frame, bound) for delta, bound in zip(deltas, noise, strict=True)]
        own = [float(factor) for factor in weight]
        least = least_interference(merged, deltas, own, [float(factor != 0.0) for factor in own], trusts, frame)
        found = unit_response(merged, deltas, weight)
        half = mean_trust(trusts, own, deltas) / 2.0
        merged *= (found**half * least ** (1.0 - half)).minimum(longest(merged, deltas, own))
    else:
        merged *= scale
    return merged


def settled(
    merged: Tensor, scale: Scale, deltas: Sequence[Tensor], weight: Any, frame: Frame, noise: Sequence[Tensor]
) -> Tensor:
    """The same of a method that looks for the least interference itself: for `auto` l^(1 - t), 1 where all is trusted."""
    if not isinstance(scale, str):
        merged *= scale
        return merged
    trusts = [trust(delta, frame, bound) for delta, bound in zip(deltas, noise, strict=True)]
    own = [float(factor) for factor in weight]
    mean = mean_trust(trusts, own, deltas)
    if bool((mean >= 1.0).all()):
        return merged
    least = least_interference(merged, deltas, [1.0] * len(own), own, trusts, frame)
    merged *= (least ** (1.0 - mean)).to(merged.dtype)
    return merged


def number(scale: Scale) -> float:
    """The scale of what is used as it is found: 1 for `auto`."""
    return 1.0 if isinstance(scale, str) else scale


def unit_response(merged: Tensor, deltas: Sequence[Tensor], weight: Any) -> Tensor:
    """The scale (..., 1, 1) at which a merged task vector answers to each task's own as that does itself, on average.

    a_i = <merged, d_i> / |d_i|^2;   scale = sum_i |w_i| / sum_i sign(w_i) a_i,  over the tasks with a weight and a vector

    1 where the sum below is not positive.
    """
    from mergery.kernels.spectral import inner, norm

    answered, wanted = merged[..., :1, :1] * 0.0, merged[..., :1, :1] * 0.0
    for delta, factor in zip(deltas, weight, strict=True):
        if factor == 0.0:
            continue
        size = norm(delta)
        there = size > 0.0
        answer = inner(merged, delta) / size.square().where(there, 1.0) * there
        answered = answered + math.copysign(1.0, factor) * answer
        wanted = wanted + abs(float(factor)) * there
    return (wanted / answered.where(answered > 0.0, 1.0)).where(answered > 0.0, 1.0)


def longest(merged: Tensor, deltas: Sequence[Tensor], weight: Sequence[float]) -> Tensor:
    """The scale (..., 1, 1) at which a merged task vector is as long as the weighed ones end to end."""
    from mergery.kernels.spectral import norm

    length = norm(merged)
    whole = sum((norm(delta) * abs(factor) for delta, factor in zip(deltas, weight, strict=True)), length * 0.0)
    return whole / length.where(length > 0.0, 1.0)


def least_interference(
    merged: Tensor,
    deltas: Sequence[Tensor],
    aims: Sequence[float],
    shares: Sequence[float],
    trusts: Sequence[Tensor],
    frame: Frame,
) -> Tensor:
    """The scale l (..., 1, 1) at which sum_i share_i |l D - aim_i d_i|_i^2 / |d_i|_i^2 is least; 1 where that is not positive.

    Products with d_i^T are measured along `PROBES` random directions in the outputs, or along all where there are no more:
    the same ones for D and d_i, so that identical task vectors come back as they are.
    """
    from mergery.kernels.spectral import inner, norm

    seen = probes(merged, frame)
    above = below = merged[..., :1, :1].double() * 0.0
    for delta, aim, share, believed in zip(deltas, aims, shares, trusts, strict=True):
        if share == 0.0:
            continue
        size = norm(delta)
        there = size > 0.0
        size = size.where(there, 1.0)
        probe = seen / size  # so that products have about the size of one task vector
        inputs = delta.mT @ probe.to(delta.dtype)
        felt, own = (merged @ inputs.to(merged.dtype)) / size, (delta @ inputs) / size
        rest = (1.0 - believed) / frame.shape[1]
        both = believed * inner(felt, own) + rest * inner(merged, delta) / size.square()
        alone = believed * norm(own).square() + rest
        of_merged = believed * norm(felt).square() + rest * (norm(merged) / size).square()
        alone = alone.where(alone > 0.0, 1.0)
        above = above + share * aim * there * both / alone
        below = below + share * there * of_merged / alone
    found = (above > 0.0) & (below > 0.0)
    return (above / below.where(found, 1.0)).where(found, 1.0)


def probes(like: Tensor, frame: Frame) -> Tensor:
    """Directions (p, m) in the outputs of cores, float64, whose squares add up to about the identity; all, where few."""
    import torch

    out = frame.shape[0]
    if out <= PROBES:
        wide = torch.eye(out, dtype=torch.float64)
    else:
        generator = torch.Generator().manual_seed(0)
        wide = torch.randn(out, PROBES, generator=generator, dtype=torch.float64) / PROBES**0.5
    wide = wide.to(like.device)
    return wide if frame.left is None else frame.left.mT @ wide


def trust(delta: Tensor, frame: Frame, noise: Tensor | float = 0.0) -> Tensor:
    """How far a task vector's rows show its inputs, (..., 1, 1): its rank over the smaller side, and 1 where that is a quarter
    or more.

    Rows and columns are folded into a few more than that, which keeps a rank below. Singular values do not count that rounding
    may have made: of the numbers themselves, or to 16 bits, whose largest one in the task vector is `noise` (...).
    """
    import torch

    bound = max(1, frame.smaller // PART)
    size = bound + MARGIN
    held = folded(folded(delta, size).mT, size)
    top = held.abs().amax((-2, -1), keepdim=True)
    held /= top.where(top > 0.0, 1.0)
    sizes = torch.linalg.eigvalsh(held.mT @ held).clamp(min=0.0).sqrt()
    high, wide = (max(1.0, side / size) ** 0.5 for side in delta.shape[-2:])
    error = torch.as_tensor(noise, device=held.device) * (
        2.0 * high * wide / (high + wide)
    )  # the largest of the folded matrix
    faint = CLEAR * error[..., None] / top.where(top > 0.0, 1.0)[..., 0]
    least = (FAINT * sizes.amax(-1, keepdim=True)).maximum(faint)
    count = (sizes > least).sum(-1, keepdim=True).unsqueeze(-1).double()
    return (count / frame.smaller).where(count < bound, 1.0)


def folded(matrix: Tensor, rows: int) -> Tensor:
    """The sum of blocks of so many rows, float64 (..., rows, n); as many as there are, where there are no more."""
    import torch

    result = matrix[..., :rows, :].to(torch.float64, copy=True)
    for start in range(rows, matrix.shape[-2], rows):
        part = matrix[..., start : start + rows, :]
        result[..., : part.shape[-2], :] += part
    return result


def mean_trust(trusts: Sequence[Tensor], weight: Sequence[float], deltas: Sequence[Tensor]) -> Tensor:
    """The mean over tasks with a weight and a vector, (..., 1, 1); 1 where there are none."""
    from mergery.kernels.spectral import norm

    whole = count = trusts[0] * 0.0
    for believed, factor, delta in zip(trusts, weight, deltas, strict=True):
        there = (norm(delta) > 0.0) * float(factor != 0.0)
        whole, count = whole + believed * there, count + there
    return (whole / count.where(count > 0.0, 1.0)).where(count > 0.0, 1.0)
