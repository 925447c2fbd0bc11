"""ResMerge: merge what task vectors are beyond their heads, and add heads back as far as they agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mergery.errors import RecipeError
from mergery.method import Deltas, Fraction, MergedDelta, Preset, Tensor, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import by_svd


def check_heads(settings: Mapping[str, Any]) -> None:
    if settings["heads"] < 0:
        raise RecipeError("heads must not be negative", why="it is a number of directions", hint="heads: 1")
    if settings["least"] > settings["most"]:
        raise RecipeError("least must not be above most", why="they bound an exponent", hint="least: 0.7, most: 1")


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return by_svd(k, out, into, k, held=3.0 * k + 4.0, what=f"{k} thin SVDs")


def units(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Matrices of length one, or zero."""
    from mergery.kernels.spectral import norm

    return [tensor / (size := norm(tensor)).where(size > 0.0, 1.0) for tensor in tensors]


def mean(tensors: Sequence[Tensor]) -> Tensor:
    """The mean, in the order of the models."""
    result = tensors[0]
    for tensor in tensors[1:]:
        result = result + tensor
    return result / len(tensors)


def pairs(tensors: Sequence[Tensor], least: float) -> Tensor:
    """The mean over pairs of their inner products, each at least `least`; 1 of a single one: (..., 1, 1)."""
    import torch

    from mergery.kernels.spectral import inner

    k = len(tensors)
    products = [inner(tensors[i], tensors[j]).clamp(min=least) for i in range(k) for j in range(i)]
    return mean(products) if products else torch.ones_like(tensors[0][..., :1, :1])


@method(
    paper="2606.02252",
    unit="matrix",
    check=check_heads,
    roles=LINEAR,
    presets={"paper": Preset({"branch": "jump"})},
    routing=routing,
)
def resmerge(
    deltas: Deltas,
    *,
    heads: int = 1,
    share: float = 0.2,
    least: Fraction = 0.7,
    most: Fraction = 1.0,
    branch: Literal["smooth", "jump"] = "smooth",
    scale: float = 1.0,
) -> MergedDelta:
    """Merge what task vectors are beyond their leading direction, and add that back as far as models agree on it.

        x_i - base = H_i + R_i,  H_i the leading singular triplet;   q_i = R_i / |R_i|,   q = sum_i q_i / |sum_i q_i|
        c = mean_i <q_i, q>,   s = mean over pairs <q_i, q_j>,   b = most - (most - least) ((s + 1) / 2 + (c + 1) / 2) / 2
        A = mean_i R_i  up to c = 1 / sqrt(k), which is agreement by chance;  beyond, towards q mean_i |R_i| c^b
        a = mean over pairs max(0, <H_i / |H_i|, H_j / |H_j|>);   C = share a |A| mean_i H_i / |mean_i H_i|
        out = base + scale * (A + C)

    In models that were trained by reinforcement learning the leading direction of a task vector carries most of the
    conflict, and what is beyond it agrees. A single model, or models that are alike, do not come back: their head is
    replaced.

    Settings:
        heads: how many leading directions are the head; 1 in the paper.
        share: the length of the heads that are added back, as a part of |A|, where they agree; 0.2 in the paper.
        least: the exponent of the agreement where all agree.
        most: the exponent where nothing does.
        branch: beyond agreement by chance, A goes from the mean to q mean_i |R_i| c^b as c goes to 1 (`smooth`,
            Mergery's choice), or is that at once (`jump`, as published): models trained by reinforcement learning lie
            about there, and a small difference would change the length by a third.
        scale: factor of the merged task vector.

    Source: Sun et al. 2026, ResMerge (arXiv 2606.02252). Everything else is averaged.

    Use it for models trained by reinforcement learning from one base, beside `ram`. Supervised fine-tunes, whose leading
    directions hold most of what they learned, lose that: there it is below `linear`.
    """
    from mergery.kernels.spectral import RANK, framed, inner, norm, svd

    cores, frame = framed(deltas)
    k = len(cores)
    tops, rests = [], []
    for core in cores:
        u, s, vh = svd(core, heads)
        tops.append((u * s.unsqueeze(-2)) @ vh)
        rest = core.double() - tops[-1]
        rests.append(rest * (norm(rest) > RANK * norm(core)))
    directions = units(rests)
    (together,) = units([mean(directions)])
    agreement = mean([inner(own, together) for own in directions])
    bend = ((pairs(directions, -1.0) + 1.0) / 2.0 + (agreement + 1.0) / 2.0) / 2.0
    strength = agreement.clamp(min=0.0) ** (most - (most - least) * bend)
    plain, aligned = mean(rests), together * (mean([norm(rest) for rest in rests]) * strength)
    chance = 1.0 / math.sqrt(k)
    beyond = (agreement > chance + RANK).double()
    if branch == "smooth" and k > 1:
        beyond = ((agreement - chance) / (1.0 - chance)).clamp(0.0, 1.0)
    merged = plain + (aligned - plain) * beyond
    (head,) = units([mean(tops)])
    return frame.restore((merged + head * (share * pairs(units(tops), 0.0).clamp(max=1.0) * norm(merged))) * scale)
