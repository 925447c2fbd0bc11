"""MonoSoup: one fine-tune with its leading and its remaining directions weighed apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.method import Deltas, Fraction, MergedDelta, Tensor, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import by_svd


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return by_svd(k, out, into, 1, what="1 thin SVD")


def leading(s: Tensor, energy: float | None) -> Tensor:
    """Which singular values (..., r), largest first, lead: the fewest that hold a share of the energy, or as many as the
    effective rank, the exponential of the entropy of their shares, rounded.
    """
    import torch

    if energy is not None:
        squares = s.square()
        return squares.cumsum(-1) - squares < energy * squares.sum(-1, keepdim=True)
    whole = s.sum(-1, keepdim=True)
    share = s / whole.where(whole > 0.0, 1.0)
    entropy = -(share * share.where(share > 0.0, 1.0).log()).sum(-1, keepdim=True)
    return torch.arange(s.shape[-1], device=s.device) < entropy.exp().round()


@method(paper="2602.09689", unit="matrix", models=(1, 1), roles=LINEAR, routing=routing)
def monosoup(deltas: Deltas, *, energy: Fraction | None = None, scale: float = 1.0) -> MergedDelta:
    """Weigh the leading directions of a task vector and the rest apart, by how much they hold.

        x - base = H + L,  H the leading k singular triplets;   P = |H|^2 / |x - base|^2,   q = (s_(k+1) / s_1)^2
        l = q + (1 - q) sqrt(1 - P);   out = base + scale * ((1 - l) H + l L)

    It gives much of what a soup of several fine-tunes gives, from one. Where the leading directions hold all,
    the fine-tune comes back; the less they hold, the more the rest counts.

    Settings:
        energy: share of the sum of squared singular values that the leading directions hold, in [0, 1]; 1 gives the
            fine-tune. Without one, k is the effective rank, the exponential of the entropy of s over its sum.
        scale: factor of the merged task vector.

    Source: MonoSoup, 2026 (arXiv 2602.09689), measured on vision models under a shift of distribution. Everything else is the
    model's own.

    Use it on a fine-tune that is to keep the base's robustness, or as a stage before a merge.
    """
    from mergery.kernels.spectral import framed, svd

    cores, frame = framed(deltas)
    u, s, vh = svd(cores[0])
    lead = leading(s, energy)
    whole = s.square().sum(-1, keepdim=True)
    held = (s * lead).square().sum(-1, keepdim=True) / whole.where(whole > 0.0, 1.0)
    next_one = (s * ~lead).amax(-1, keepdim=True) if s.shape[-1] else s
    first = s[..., :1]
    ratio = (next_one / first.where(first > 0.0, 1.0)).square()
    share = ratio + (1.0 - ratio) * (1.0 - held).clamp(min=0.0).sqrt() * (next_one > 0.0)
    return frame.lift(u * (s * share.where(~lead, 1.0 - share) * scale).unsqueeze(-2), vh)
