"""Model Stock: as much of the average as the agreement of the task vectors warrants."""

from __future__ import annotations

from typing import Literal

from mergery.method import Coefficients, Gram, method


@method(paper="2403.19522", span="deltas", models=(2, None))
def model_stock(
    gram: Gram, *, scope: Literal["tensor", "row", "column"] = "tensor", clamp: bool = True
) -> Coefficients:
    """Go from the base towards the models' average, as far as the angle between their task vectors warrants.

        out = t mean_i(x_i) + (1 - t) base,   t = N c / (1 + (N - 1) c)

    with c the mean cosine of the angles between the N task vectors, pair by pair; for two models t = 2 c / (1
    + c). If the models are a common centre plus independent noise of equal size, this is the point on the way
    to their average that is nearest to the centre. A zero task vector has cosine 0 to the others.

    Settings:
        scope: what has its own t: each tensor, each row (mergekit's filter_wise) or each column.
        clamp: keep t in [0, 1]. c can only be negative if the task vectors contradict each other; the formula
            then leads away from the average, without bound as c nears -1 / (N - 1), and clamping stays at the
            base.

    Source: Jang, Yun, Han 2024, Model Stock (arXiv 2403.19522).

    Use it for few fine-tunes of one base on the same task (other seeds or settings). Task vectors of
    different tasks are nearly orthogonal, and the result is then nearly the base.
    """
    import numpy as np

    from mergery.methods._sphere import cosines

    k = gram.shape[-1]
    cosine = cosines(gram)
    upper, lower = np.triu_indices(k, 1)
    mean = cosine[..., upper, lower].mean(-1)
    denominator = 1.0 + (k - 1) * mean
    singular = np.abs(denominator) <= 1e-12 * k
    t = np.where(singular, 0.0, k * mean / np.where(singular, 1.0, denominator))
    if clamp:
        t = np.clip(t, 0.0, 1.0)
    return np.repeat(t[..., None] / k, k, axis=-1)
