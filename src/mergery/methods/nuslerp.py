"""NuSLERP: spherical interpolation of two models or two task vectors."""

from __future__ import annotations

from typing import Literal

from mergery.method import Coefficients, Gram, PerModel, each, method
from mergery.methods.slerp import fraction


@method(paper="mergekit", span="either", models=(2, 2), average=lambda settings: settings["weight"])
def nuslerp(
    gram: Gram,
    *,
    weight: PerModel[float] = each(1.0),
    scope: Literal["tensor", "row", "column"] = "tensor",
) -> Coefficients:
    """Interpolate on the sphere between two models, or between two task vectors where a base is named.

        out = slerp(x_1, x_2; t)   or   base + slerp(x_1 - base, x_2 - base; t),   t = w_2 / (w_1 + w_2)

    Settings:
        weight: relative share of each model; t is 0.5 where the two cancel.
        scope: what is one vector: the whole tensor, each row (an output neuron's weights) or each column.

    Source: the method of this name in mergekit; the arc is Shoemake's (1985).

    Use it with a base to blend two fine-tunes: task vectors are nearly orthogonal, so that, unlike between
    whole models, the arc keeps a length that the linear average would lose (to 71 % at t = 0.5).
    """
    import numpy as np

    from mergery.methods._sphere import arc

    shares = arc(gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1], fraction(weight))
    return np.stack(shares, axis=-1)
