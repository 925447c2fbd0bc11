"""Weighted average of models."""

from __future__ import annotations

from mergery.method import Coefficients, Count, PerModel, each, method
from mergery.methods._weights import check_sum


@method(paper="2203.05482", check=check_sum, additive={})
def linear(count: Count, *, weight: PerModel[float] = each(1.0), normalize: bool = True) -> Coefficients:
    """Weighted average of the models' parameters (model soup).

        out = sum_i w_i x_i / sum_i w_i

    Settings:
        weight: share of each model; any real number, relative to the others where normalized.
        normalize: divide by the sum of the weights, which must not be zero; false takes the plain weighted
            sum.

    Source: Wortsman et al. 2022, Model soups (arXiv 2203.05482): the uniform soup has equal weights.

    Use it for fine-tunes of one base on the same or neighbouring tasks, for checkpoints of one run, and as
    the baseline of any other merge. Models without a common ancestor do not average well.
    """
    return weight / weight.sum() if normalize else weight
