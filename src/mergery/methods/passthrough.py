"""One model as it is."""

from __future__ import annotations

from mergery.method import Coefficients, Count, method


@method(models=(1, 1), factor=lambda settings: settings["scale"])
def passthrough(count: Count, *, scale: float = 1.0) -> Coefficients:
    """Take one model's parameters as they are, or times a factor.

        out = scale * x

    Settings:
        scale: factor of every parameter it applies to; 1 copies. With a filter it scales single parts, such
            as the output projections of repeated layers.

    Use it to build a stack of layers from one or several models, to convert, or as the base case of a recipe.
    """
    import numpy as np

    return np.array([scale])
