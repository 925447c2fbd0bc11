"""OPCM: models merged one after the other, each without what lies along those before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.method import Deltas, Fraction, MergedDelta, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import by_svd


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return by_svd(k, out, into, max(1, k - 1), held=float(k), what="1 thin SVD for each model after the first")


def novel(delta: Tensor, merged: Tensor, alpha: float) -> Tensor:
    """What of a task vector joins no direction of `merged` with its own partner, nor any two leading ones; float64."""
    import torch

    from mergery.kernels.spectral import svd

    u, s, vh = svd(merged)
    reached = s.cumsum(-1)
    leading = (reached <= alpha * reached[..., -1:]) & (s > 0.0)
    own = torch.eye(s.shape[-1], dtype=torch.bool, device=s.device)
    taken = (u.mT @ delta @ vh.mT) * (own | (leading.unsqueeze(-1) & leading.unsqueeze(-2)))
    return delta - u @ taken @ vh


@method(
    paper="2501.09522",
    unit="matrix",
    symmetric=False,
    roles=LINEAR,
    presets={"paper": Preset({"alpha": 0.5})},
    routing=routing,
    weighs="factors",
)
def opcm(
    deltas: Deltas, *, weight: PerModel[float] = each(1.0), alpha: Fraction = 0.5, scale: float = 1.0
) -> MergedDelta:
    """Merge models one after the other, of each only the part that is orthogonal to the merge so far.

        d_i = w_i (x_i - base);   M_1 = d_1;   M_i = M_(i-1) + d_i - U C_i V^T,   U S V^T = M_(i-1)
        C_i is U^T d_i V on the diagonal and between any two leading directions, zero elsewhere
        out = base + scale * (mean_i |d_i|) / |M_k| * M_k

    The leading directions are the first whose singular values add up to no more than alpha of the sum. What is added
    is orthogonal to all that is there, so that |M_k| grows like the root of k; the last line is the paper's
    time-varying scale, which keeps the result as far from the base as the models are on average.

    Settings:
        weight: factor of each task vector.
        alpha: share of the sum of singular values that is held by leading directions; 0 leaves out the diagonal
            alone, 1 all that lies within the directions merged so far. 0.5 in the authors' code.
        scale: factor of the merged task vector.

    Source: Tang et al. 2025, Merging models on the fly without retraining (arXiv 2501.09522), from the abstract and
    the description of the authors' code, whose choice it is to keep what joins a leading direction of one side with
    another of the other side. There the lengths are those of whole models, here those of each matrix, and directions
    of no numerical rank (singular values below 1e-6 of the largest) are none. Everything else is averaged.

    Use it where models arrive one by one: the merge so far is all that has to be kept of those before. Earlier models
    have precedence.
    """
    from mergery.kernels.spectral import framed, norm

    cores, frame = framed(deltas)
    own = [core.double() * float(factor) for core, factor in zip(cores, weight, strict=True)]
    merged = own[0]
    for delta in own[1:]:
        merged = merged + novel(delta, merged, alpha)
    length = norm(merged)
    goal = sum(norm(delta) for delta in own) / len(own)
    return frame.restore(merged * (scale * goal / length.where(length > 0.0, 1.0)))
