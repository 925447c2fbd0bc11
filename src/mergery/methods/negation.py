"""Negation: unlearn a task, and leave other tasks alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mergery.method import Coefficients, Gram, method

if TYPE_CHECKING:
    import numpy as np

CUTOFF = 1e-6
"""Of the largest eigenvalue of the controls' cosines: directions below it are rounding noise."""


@method(paper="2212.04089", span="deltas", symmetric=False)
def negation(
    gram: Gram, *, scale: float = 1.0, scope: Literal["model", "tensor", "row", "column"] = "tensor"
) -> Coefficients:
    """Subtract the first model's task vector, without what lies along the other models' (the controls).

        out = base - scale (d_1 - P d_1),   d_i = x_i - base

    P projects onto the span of the control vectors d_2, d_3, ..., so that the step is orthogonal to each: to
    first order, it takes nothing from what they know. Without controls it is plain negation. A negative scale adds
    instead: the part of a task vector that is new to the others.

    Settings:
        scale: the paper's lambda, the strength; the paper takes the largest at which a control task keeps 95 % of
            its accuracy.
        scope: what is one vector: the whole model, each tensor, each row (an output neuron's weights) or each
            column. Smaller parts protect the controls more, and leave less of the task.

    Source: Ilharco et al. 2023, Editing models with task arithmetic (arXiv 2212.04089), who measure the control
    instead; the projection is the constraint that needs no data.

    Use it with a model fine-tuned on what should go (toxic text) first, and models fine-tuned on what must stay
    behind it. Measure both, and lower `scale` where the control falls.
    """
    import numpy as np

    k = gram.shape[-1]
    share = np.zeros(gram.shape[:-1])
    share[..., 0] = -scale
    if k > 1:
        share[..., 1:] = scale * along(gram[..., 1:, 1:], gram[..., 1:, 0])
    return share


def along(gram: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Coefficients (..., k) of a vector's projection onto k vectors, from their Gram matrix and its products with them."""
    import numpy as np

    from mergery.methods._sphere import cosines, lengths

    size = lengths(gram)
    known = np.where(size > 0.0, size, 1.0)
    inverse = np.linalg.pinv(cosines(gram), rcond=CUTOFF, hermitian=True)
    return (inverse @ (np.where(size > 0.0, products, 0.0) / known)[..., None])[..., 0] / known
