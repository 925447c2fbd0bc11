"""Cosine add: take over another model where it differs, column by column."""

from __future__ import annotations

from typing import Literal

from mergery.method import Coefficients, Fraction, Gram, method


@method(paper="sd-mecha", models=(2, 2), symmetric=False)
def cosine_add(gram: Gram, *, t: Fraction = 0.0, scope: Literal["tensor", "row", "column"] = "column") -> Coefficients:
    """Go from the first model to the second by as much as they differ in direction.

        out = (1 - s) x_1 + s x_2,   s = 1 - clip(cos(x_1, x_2) - t, 0, 1)

    Vectors that point the same way stay the first model's; orthogonal ones become the second's. A zero vector
    has cosine 0.

    Settings:
        t: taken from the cosine, in [0, 1]; 1 gives the second model everywhere.
        scope: what is one vector: each column, each row (an output neuron's weights) or the tensor.

    Source: add_cosine_a of sd-mecha 1.1.5, there by column; older tools of image models call it cosine.

    Use it as users of image models do, to blend two styles without averaging what they share. Fine-tunes of one
    language model have cosines near 1 everywhere, so that little is taken over.
    """
    import numpy as np

    from mergery.methods._sphere import cosines

    share = 1.0 - np.clip(cosines(gram)[..., 0, 1] - t, 0.0, 1.0)
    return np.stack([1.0 - share, share], axis=-1)
