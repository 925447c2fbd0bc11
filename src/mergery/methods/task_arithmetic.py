"""Task arithmetic: add and subtract task vectors."""

from __future__ import annotations

from mergery.method import Auto, Coefficients, Count, PerModel, each, method
from mergery.methods._scale import of_sum
from mergery.methods._weights import check_sum


@method(paper="2212.04089", span="deltas", check=check_sum, usual=of_sum, additive={})
def task_arithmetic(
    count: Count, *, weight: PerModel[float] = each(1.0), scale: Auto = "auto", normalize: bool = False
) -> Coefficients:
    """Add the weighted task vectors (model minus base) to the base.

        out = base + scale * sum_i w_i (x_i - base)

    Weights of one sign add abilities; a negative weight takes one away (negation); weights 1, 1, -1 on C, B,
    A carry the step from A to B over to C (analogy).

    Settings:
        weight: factor of each task vector; any real number.
        scale: the paper's lambda, the factor of the whole sum. `auto` is k^(-3/4) where no weight is given and
            normalize is false, else 1. The paper tunes it on a validation set between 0 and 1, about 0.3 to 0.4 for
            eight tasks. With 1 / number of models and equal weights the result is the models' average.
        normalize: divide by the sum of the weights, which must not be zero. The paper does not.

    Source: Ilharco et al. 2023, Editing models with task arithmetic (arXiv 2212.04089).

    Use it after `linear`, to combine fine-tunes of one base with different skills: of the methods without data it
    is the one that most reliably improves on the base. The sum of several task vectors at full weight overshoots, so
    that `scale` falls as models are added unless you set it.
    """
    assert not isinstance(scale, str)  # settled
    factor = scale / weight.sum() if normalize else scale
    return factor * weight
