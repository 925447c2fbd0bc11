"""STAR: task vectors without their small singular values, at their old nuclear norm, averaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.method import Deltas, Fraction, MergedDelta, PerModel, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import by_svd
from mergery.methods._weights import check_sum


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return by_svd(k, out, into, k, held=float(k + 2), what=f"{k} thin SVDs")


@method(paper="2502.10339", unit="matrix", check=check_sum, roles=LINEAR, routing=routing)
def star(
    deltas: Deltas,
    *,
    weight: PerModel[float] = each(1.0),
    energy: Fraction = 0.4,
    normalize: bool = True,
    scale: float = 1.0,
) -> MergedDelta:
    """Cut the small singular values off each task vector, scale up the rest so that their sum stays, and average.

        x_i - base = U_i S_i V_i^T;   r_i the least number with s_1 + .. + s_r >= energy sum_j s_j
        d_i = (sum_j s_j / (s_1 + .. + s_r)) U_ir S_ir V_ir^T;   out = base + scale * sum_i w_i d_i / sum_i w_i

    Each task vector has its own rank, and none needs data or tuning.

    Settings:
        weight: factor of each task vector.
        energy: share of the sum of singular values that stays, in [0, 1]; 0.4 in the paper. 0 keeps nothing, 1 all.
        normalize: divide by the sum of the weights.
        scale: factor of the merged task vector.

    Source: Lee et al. 2025, STAR: spectral truncation and rescale for model merging (arXiv 2502.10339). Everything else is
    averaged.

    Use it in place of `linear` for fine-tunes of one base whose task vectors are noisy: it needs no tuning.
    """
    from mergery.kernels.spectral import framed, svd, total

    cores, frame = framed(deltas)
    shortened = []
    for core in cores:
        u, s, vh = svd(core)
        whole = s.sum(-1, keepdim=True)
        left = s * (s.cumsum(-1) - s < energy * whole)
        rest = left.sum(-1, keepdim=True)
        shortened.append(u * (left * whole / rest.where(rest > 0.0, 1.0)).unsqueeze(-2) @ vh)
    share = scale / float(weight.sum()) if normalize else scale
    return frame.restore(total(shortened, weight) * share)
