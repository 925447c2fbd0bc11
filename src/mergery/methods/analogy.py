"""Task analogy: A is to B as C is to the result."""

from __future__ import annotations

from mergery.method import Coefficients, Count, method


@method(paper="2212.04089", span="deltas", models=(2, 2), symmetric=False)
def analogy(count: Count, *, scale: float = 1.0) -> Coefficients:
    """Carry the step from one model to another over to a third: A is to B as the base C is to the result.

        out = base + scale (B - A),   models: [A, B]

    Config and tokenizer are those of the base. The paper writes it with task vectors of a common origin: at its
    lambda of 1, origin + (C + B - A) is this at scale 1.

    Settings:
        scale: factor of the step from A to B; 0 gives the base.

    Source: Ilharco et al. 2023, Editing models with task arithmetic (arXiv 2212.04089); known as add difference
    among users of image models.

    Use it where no model was trained on the wanted pair: instruct tuning of A is B, so a new release of the base
    gets it, or a domain's C gets the style in which B differs from A. All three must be of one ancestor.
    """
    import numpy as np

    return np.array([-scale, scale])
