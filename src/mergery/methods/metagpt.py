"""MetaGPT: coefficients in proportion to the squared lengths of the task vectors."""

from __future__ import annotations

from typing import Literal

from mergery.method import Coefficients, Gram, method


@method(paper="2406.11385", span="deltas")
def metagpt(gram: Gram, *, scale: float = 1.0, scope: Literal["model", "tensor"] = "model") -> Coefficients:
    """Add the task vectors with coefficients that follow from their lengths, in closed form.

        out = base + scale * sum_i l_i (x_i - base),   l_i = |x_i - base|^2 / sum_j |x_j - base|^2

    These minimize the average loss over the tasks if losses are quadratic around the fine-tuned models with
    equal curvature and the task vectors are orthogonal. The coefficients sum to 1.

    Settings:
        scale: factor of the merged task vector; the paper has none.
        scope: lengths over the whole model (the paper: one coefficient for each model) or tensor by tensor.

    Source: Zhou et al. 2024, MetaGPT (arXiv 2406.11385).

    Use it where there is no data to tune the weights of task arithmetic, and the models moved by different
    amounts: it follows those that moved most. `balanced` does the opposite.
    """
    import numpy as np

    energy = np.diagonal(gram, axis1=-2, axis2=-1)
    total = energy.sum(-1, keepdims=True)
    return scale * np.divide(energy, total, out=np.zeros_like(energy), where=total > 0.0)
