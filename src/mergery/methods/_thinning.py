"""Weighing, electing and summing thinned task vectors, for methods that thin them row by row.

The arithmetic is that of `mergery.method.Consensus`: float32, models in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def combine(deltas: Sequence[Tensor], weight: np.ndarray, *, elect: bool, normalize: bool) -> Tensor:
    """The weighted sum of task vectors.

    elect:     the sign of the sum wins (zero counts as positive); entries of the other sign are left out.
    normalize: divide by the weights that took part: with `elect` those of the winning entries, else all.
    """
    weights = [float(each) for each in weight]
    total = deltas[0].new_zeros(deltas[0].shape)
    if not elect:
        for delta, own in zip(deltas, weights, strict=True):
            total = total + delta * own
        return total / float(weight.sum()) if normalize else total
    up, down, up_share, down_share = (total.clone() for _ in range(4))
    for delta, own in zip(deltas, weights, strict=True):
        weighed = delta * own
        up += weighed.clamp(min=0.0)
        down += weighed.clamp(max=0.0)
        up_share += own * (weighed > 0.0)
        down_share += own * (weighed < 0.0)
    positive = up + down >= 0.0
    total = up.where(positive, down)
    if not normalize:
        return total
    share = up_share.where(positive, down_share)
    return total / share.where(share != 0.0, share.new_ones(()))


def by_l1(settings: Mapping[str, Any]) -> bool:
    """Whether what is kept gets the sum of magnitudes of the whole."""
    return settings["rescale"] == "l1"


def restore(deltas: Sequence[Tensor], before: Sequence[float], after: Sequence[float]) -> list[Tensor]:
    """Thinned task vectors, each times what brings its sum of magnitudes from `after` to `before`."""
    return [
        delta * (whole / kept if kept > 0.0 else 1.0) for delta, whole, kept in zip(deltas, before, after, strict=True)
    ]


def magnitudes(deltas: Sequence[Tensor]) -> list[Tensor]:
    """|d| of each task vector."""
    return [delta.abs() for delta in deltas]
