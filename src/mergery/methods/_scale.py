"""The outer scale of a merged task vector, where the recipe does not give it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

STRETCH = 1.2  # of the scale 1 / sqrt(k) that gives k orthogonal task vectors of one length the length of one


def of_sum(settings: Mapping[str, Any]) -> float:
    """The scale of a sum of k task vectors: min(1, 1.2 / sqrt(k)) where every weight is 1 and nothing is divided by, else 1."""
    if settings.get("normalize"):
        return 1.0
    return of_terms(settings["weight"], len(settings["weight"]))


def of_terms(weight: Any, terms: float) -> float:
    """The same of a sum in which so many task vectors meet in an entry."""
    return min(1.0, STRETCH / math.sqrt(terms)) if bool((weight == 1.0).all()) else 1.0


def scaled(merged: Tensor, scale: float | str, deltas: Sequence[Tensor], weight: Any) -> Tensor:
    """A merged task vector (..., out, in), float64, times its scale, in its place: a number, or that of `unit_response`."""
    merged *= unit_response(merged, deltas, weight) if isinstance(scale, str) else scale
    return merged


def unit_response(merged: Tensor, deltas: Sequence[Tensor], weight: Any) -> Tensor:
    """The scale (..., 1, 1) at which a merged task vector answers to each task's own as that does itself, on average.

    a_i = <merged, d_i> / |d_i|^2;   scale = sum_i |w_i| / sum_i sign(w_i) a_i,  over the tasks with a weight and a vector

    1 where the sum below is not positive. The result is never longer than the weighed task vectors' sum would be if they were
    orthogonal, sqrt(sum_i w_i^2 |d_i|^2): where tasks share their inputs, or are adapters, answers alone would ask for more.
    """
    from mergery.kernels.spectral import inner, norm

    answered, wanted, longest = merged[..., :1, :1] * 0.0, merged[..., :1, :1] * 0.0, merged[..., :1, :1] * 0.0
    for delta, factor in zip(deltas, weight, strict=True):
        own = abs(float(factor))
        if own == 0.0:
            continue
        size = norm(delta)
        there = size > 0.0
        answer = inner(merged, delta) / size.square().where(there, 1.0) * there
        answered = answered + math.copysign(1.0, factor) * answer
        wanted = wanted + own * there
        longest = longest + (own * size).square()
    scale = wanted / answered.where(answered > 0.0, 1.0)
    length = norm(merged)
    most = longest.sqrt() / length.where(length > 0.0, 1.0)
    return scale.where(answered > 0.0, 1.0).minimum(most)
