"""CART: task vectors around the mean instead of the base, of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mergery.method import Fraction, Models, Tensor, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import VECTORS, WIDE, leading_triplets


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    small, size = min(out, into), out * into
    count = math.ceil(settings["rank"] * small)
    work, space = leading_triplets(out, into, count)
    work = k * (work + 2.0 * size * count)
    space = max(space + 2.25 * size, (VECTORS + 1.0) * small**2 + 3.0 * size)  # with the mean and the sum
    return Route(f"{k} thin SVDs by eigenvectors of the smaller Gram matrix", work, int(WIDE * space))


@method(paper="2412.12153", unit="matrix", roles=LINEAR, routing=routing)
def cart(models: Models, *, rank: Fraction = 0.08, scale: float = 1.0) -> Tensor:
    """Average the models, and add of each the leading directions in which it differs from the average.

        m = mean_i x_i;   x_i - m = U_i S_i V_i^T;   out = m + scale * sum_i U_ir S_ir V_ir^T

    The leading r = rank min(out, in) triplets are kept, rounded up. About the mean the differences are of lower rank than
    task vectors about the base, as what all have learned is in the mean. It needs no base. With `rank` 1 the
    differences sum to zero and the average is all, as with `scale` 0; in between, what few directions hold is added
    in full, and not averaged away.

    Settings:
        rank: fraction of the directions of a difference that is kept, in [0, 1]; 0.08 in the paper, 0.04 for adapters.
        scale: factor of the sum; the paper tunes it on validation data.

    Source: Choi et al. 2024, Revisiting weight averaging for model merging (arXiv 2412.12153). Everything else is averaged.

    Use it in place of `linear` for fine-tunes of one base with different skills, where the average is sound but weak.
    """
    from mergery.kernels.spectral import svd, total

    count = math.ceil(rank * min(models[0].shape[-2:]))
    mean = total(models, [1.0 / len(models)] * len(models))
    merged = mean.clone()
    for model in models if count else ():
        u, s, vh = svd(model.double().sub_(mean), count)
        merged += (u * (scale * s).unsqueeze(-2)) @ vh
    return merged
