"""Rebase: a fine-tune moved onto a new version of its base, without what the base has learned itself."""

from __future__ import annotations

from typing import Literal

from mergery.method import Coefficients, Gram, method


@method(paper="2505.22697", span="deltas", models=(2, 2), symmetric=False)
def rebase(
    gram: Gram, *, beta: float = 1.0, scale: float = 1.0, scope: Literal["model", "tensor", "row", "column"] = "tensor"
) -> Coefficients:
    """Add a fine-tune's task vector to a new version of its base, without the part along the base's own step.

        models: [A, X],  base: B;   t = X - A,   s = B - A;   out = B + scale * (t - beta <t, s> / <s, s> s)

    A is the old base, X its fine-tune, B the new base. What the fine-tune has in common with the step from the old base
    to the new one would be added twice, and is left out. With `beta` 0 it is `analogy`. Where the base has not changed, the
    fine-tune comes back.

    Settings:
        beta: how much of the common part is left out; 1 all of it.
        scale: factor of the task vector; 0 gives the new base.
        scope: what is one vector: the whole model, each tensor, each row (an output neuron's weights) or each column.

    Source: the orthogonal shift of the collection merge-and-rebase, which compares ways to move a fine-tune; TransFusion
    (arXiv 2505.22697) is one that also matches neurons.

    Use it where a new release of a base is to get what a fine-tune of the old one has learned. All three must be of one
    ancestor and one shape.
    """
    import numpy as np

    own, across = gram[..., 0, 0], gram[..., 0, 1]
    common = np.divide(across - own, own, out=np.zeros_like(own), where=own > 0.0)
    return np.stack([-scale * (1.0 + beta * common), np.full_like(own, scale)], axis=-1)
