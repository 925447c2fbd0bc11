"""Spherical mean of several models in one step."""

from __future__ import annotations

from typing import Literal

from mergery.method import Coefficients, Gram, PerModel, each, method
from mergery.methods._weights import check_positive


@method(paper="mergekit", span="either", check=check_positive, average=lambda settings: settings["weight"])
def multislerp(
    gram: Gram,
    *,
    weight: PerModel[float] = each(1.0),
    normalize: bool = True,
    tangent: Literal["log", "projection"] = "log",
    scope: Literal["tensor", "row", "column"] = "tensor",
) -> Coefficients:
    """Average the directions of models or task vectors on the sphere, and give them their mean length.

        m = sum_i w_i u_i / |sum_i w_i u_i|,  v = sum_i w_i log_m(u_i)
        out = (sum_i w_i |x_i|) (cos|v| m + sin|v| v / |v|)

    with u_i = x_i / |x_i|: the weighted mean direction m, then one step along the mean of the directions seen
    from there. For two models it is their spherical interpolation, with interpolated length. A zero vector
    has no direction, but its length counts. Where the directions cancel, the result is the linear sum. With a
    base, the vectors are the task vectors and the result is added to it.

    Settings:
        weight: relative share of each model; the sum must be positive.
        normalize: divide the weights by their sum. Without it the length is the weighted sum of lengths, so
            that weights of sum s scale the result by s; directions are not affected.
        tangent: how a direction is seen from the mean. `log` is the sphere's logarithm. `projection` drops
            the factor angle / sin(angle), as mergekit does; the step then vanishes, and the result is the
            normalized mean.
        scope: what is one vector: the whole tensor, each row (an output neuron's weights) or each column.

    Source: Goddard's barycentric interpolation on the hypersphere, the method of this name in mergekit.

    Use it where karcher would do and weights are wanted for task vectors; it needs no iteration.
    """
    import numpy as np

    from mergery.methods._sphere import cosines, directed, lengths, on_vectors, start, walk
    from mergery.methods._sphere import tangent as log_mean

    mass = weight / weight.sum() if normalize else weight
    cosine, size = cosines(gram), lengths(gram)
    share = directed(weight, size)
    mean, cancelled = start(cosine, share)
    if tangent == "log":
        mean = walk(cosine, mean, log_mean(cosine, mean, share))
    radius = (mass * size).sum(-1)
    return np.where(cancelled[..., None], mass, on_vectors(gram, mean, radius))
