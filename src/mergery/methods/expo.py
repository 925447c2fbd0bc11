"""ExPO: go on in the direction in which alignment led."""

from __future__ import annotations

from mergery.method import Coefficients, Count, Way, method


@method(paper="2404.16792", span="deltas", models=(1, 1), symmetric=False)
def expo(count: Count, *, alpha: Way = 0.3) -> Coefficients:
    """Extrapolate from a model before alignment (the base) through the aligned one.

        out = x + alpha (x - base) = base + (1 + alpha) (x - base)

    Settings:
        alpha: how much further, relative to the step from base to model; the paper finds 0.1 to 0.5. 0 gives the
            model, -1 the base, and between them lies their interpolation.

    Source: Zheng et al. 2024, Weak-to-strong extrapolation expedites alignment (arXiv 2404.16792).

    Use it with a model after supervised fine-tuning as the base and the same model after DPO or RLHF: training that
    was cut short is carried on without data. Beyond the best alpha, quality falls off fast.
    """
    import numpy as np

    return np.array([1.0 + alpha])
