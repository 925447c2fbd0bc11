"""DARE: drop at random and rescale, then add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from mergery.method import Auto, Consensus, Count, Fraction, PerModel, each, method
from mergery.methods._scale import of_sum
from mergery.methods._thinning import by_l1
from mergery.methods._weights import check_sum

if TYPE_CHECKING:
    import numpy as np


@method(paper="2311.03099", check=check_sum, preserves_l1=by_l1, usual=of_sum, additive={})
def dare_linear(
    count: Count,
    *,
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.1),
    rescale: Literal["probability", "l1", "none"] = "probability",
    normalize: bool = False,
    scale: Auto = "auto",
) -> Consensus:
    """Drop entries of each task vector at random, scale up the rest so that its mean stays, and add.

        d_i = m_i (x_i - base) / p_i,  m_i ~ Bernoulli(p_i) per entry;   out = base + scale * sum_i w_i d_i

    The coins are keyed by seed, tensor, model and entry: the same seed gives the same bytes on any machine.

    Settings:
        weight: factor of each task vector.
        density: p, the probability that an entry is kept, in [0, 1]: one minus the paper's drop rate, which
            is 0.9 for encoders and was swept from 0.1 to 0.9 for language models. 0 keeps nothing, 1 all.
        rescale: `probability` divides what is kept by p (the paper), so that the expected task vector is the
            original. `l1` multiplies it by one number so that, tensor by tensor, the sum of magnitudes is as
            before (mergekit). `none` leaves it.
        normalize: divide by the sum of the weights, which must not be zero. The paper does not.
        scale: factor of the whole sum; the paper uses 0.5 to 1 for language models. `auto` is k^(-3/4) where no weight
            is given and normalize is false, else 1.

    Source: Yu et al. 2024, Language models are super Mario (arXiv 2311.03099), with task arithmetic.

    Use it for fine-tunes whose entries moved little (below about 0.002). It adds noise of variance d^2 (1 -
    p) / p to every entry; checkpoints of continued pretraining do not stand that.
    """
    assert not isinstance(scale, str)  # settled
    return Consensus(
        weight,
        probability=density,
        gain=gain(density) if rescale == "probability" else None,
        preserve_l1=rescale == "l1",
        normalize=normalize,
        scale=scale,
    )


def gain(density: np.ndarray) -> np.ndarray:
    """1 / p, and 1 where nothing is kept."""
    import numpy as np

    return 1.0 / np.where(density > 0.0, density, 1.0)
