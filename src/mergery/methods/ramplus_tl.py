"""RAM+ with ratios of each tensor."""

from __future__ import annotations

from typing import Annotated

from mergery.method import Deltas, Sum, Tensor, method
from mergery.method.compiled import compiled
from mergery.methods.ram import changed, check_epsilon


@compiled("mergery.methods.compiled.changes:shared")
def shared(deltas: Deltas, epsilon: float) -> list[Tensor]:
    """1 where a model changed an entry and another one did too."""
    masks, count = changed(deltas, epsilon)
    return [mask * (count > 1.0) for mask in masks]


@compiled("mergery.methods.compiled.changes:unique")
def unique(deltas: Deltas, epsilon: float) -> list[Tensor]:
    """1 where only this model changed an entry."""
    masks, count = changed(deltas, epsilon)
    return [mask * (count == 1.0) for mask in masks]


def factors(overlap: list[float], alone: list[float], r: float, alpha: float) -> list[float]:
    """By how much each model's own changes are amplified."""
    ratios = [many / few if few else alpha for many, few in zip(overlap, alone, strict=True)]
    return [r * min(max(ratio, 0.0), alpha) for ratio in ratios]


@method(paper="2601.13572", check=check_epsilon)
@compiled("mergery.methods.compiled.changes:ramplus_tl")
def ramplus_tl(
    deltas: Deltas,
    overlap: Annotated[list[float], Sum(shared)],
    alone: Annotated[list[float], Sum(unique)],
    *,
    epsilon: float = 1e-5,
    r: float = 0.1,
    alpha: float = 0.2,
    scale: float = 1.0,
) -> Tensor:
    """Add the changes that only one model made, amplified, and the average of those that several made.

        c_i = |x_i - base| > epsilon
        rho_i = (entries changed by i and others) / (entries changed by i alone)
        out = base + scale * sum_i c_i f_i (x_i - base) / max(1, sum_i c_i),
        f_i = 1 + r clip(rho_i, 0, alpha) where only i changed the entry, else 1

    A model that shares much of its change loses much to averaging; its own changes are amplified for that.
    The ratio is taken tensor by tensor; the paper takes it over the whole model.

    Settings:
        epsilon: a smaller change counts as none and is left out. In the units of the parameters, not
            negative; 1e-5 in the paper's code. 0 counts every change.
        r: strength of the amplification; 0 gives ram.
        alpha: largest ratio that counts. The factor is at most 1 + r alpha.
        scale: factor of the merged task vector.

    Source: Yuan et al. 2026, Behavior knowledge merge in reinforced agentic models (arXiv 2601.13572), in the
    tensor-local form of mergekit with its defaults. The authors' code has 1 + 0.2 min(1, rho), that is r =
    0.2 and alpha = 1.

    Use it where ram is used and the models' changes overlap in part.
    """
    masks, count = changed(deltas, epsilon)
    single = count == 1.0
    total = deltas[0].new_zeros(deltas[0].shape)
    for delta, mask, factor in zip(deltas, masks, factors(overlap, alone, r, alpha), strict=True):
        total = total + delta * mask * (1.0 + factor * single)
    return total / count.clamp(min=1.0) * scale
