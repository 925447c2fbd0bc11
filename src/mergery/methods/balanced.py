"""Balanced coefficients: an equal say for each task vector, however long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mergery.method import Coefficients, Gram, PerModel, each, method
from mergery.methods._weights import check_positive

if TYPE_CHECKING:
    import numpy as np

CUTOFF = 1e-3
"""Of the largest eigenvalue of the cosines: along directions below it, the task vectors contradict each other."""


@method(paper="2505.16148", span="deltas", check=check_positive)
def balanced(
    gram: Gram,
    *,
    by: Literal["norm", "cosine"] = "norm",
    weight: PerModel[float] = each(1.0),
    scale: float = 1.0,
    scope: Literal["model", "tensor"] = "model",
) -> Coefficients:
    """Weigh the task vectors so that each has an equal part in the sum, or an equal angle to it.

        d_i = x_i - base,  u_i = d_i / |d_i|
        norm     out = base + scale * sum_i l_i d_i,   l_i = (w_i / |d_i|) / sum_j (w_j / |d_j|)
        cosine   out = base + scale * mean_i |d_i| * v,   v in the span of the u_i with v . u_i = w_i / mean_j w_j

    By norm, each contributes a vector of the same length. By cosine, the merged vector has the same
    projection on each (for equal weights): it is the average for equal task vectors and the sum for orthogonal ones.
    A zero task vector has no part. Where the cosines leave a direction open (eigenvalues below a thousandth of the
    largest), nothing is added along it: opposite task vectors give the base.

    Settings:
        by: `norm` for equal lengths, `cosine` for equal angles.
        weight: relative part of each model; the sum must be positive.
        scale: factor of the merged task vector.
        scope: over the whole model, or tensor by tensor.

    Source: by norm, Si et al. 2025, NAN (arXiv 2505.16148), there with the norms of parameters; by cosine, the
    impartial direction of multi-task learning (Liu et al. 2021, IMTL, ICLR).

    Use it where one model was trained longer or harder than the others and drowns them in a plain sum.
    """
    import numpy as np

    from mergery.methods._sphere import cosines, lengths

    size = lengths(gram)
    moved = size > 0.0
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=moved)
    if by == "norm":
        share = np.where(moved, weight, 0.0) * inverse
        return scale * divided(share, share.sum(-1, keepdims=True))
    wanted = np.where(moved, weight / weight.mean(), 0.0)
    shares = (np.linalg.pinv(cosines(gram), rcond=CUTOFF, hermitian=True) @ wanted[..., None])[..., 0]
    radius = divided(size.sum(-1, keepdims=True), moved.sum(-1, keepdims=True).astype(float))
    return scale * radius * shares * inverse


def divided(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 0 where b is."""
    import numpy as np

    return np.divide(a, b, out=np.zeros_like(a), where=b != 0.0)
