"""DARE with the sign election of TIES."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mergery.method import Auto, Consensus, Count, Fraction, PerModel, each, method
from mergery.methods._scale import of_terms
from mergery.methods._thinning import by_l1
from mergery.methods.dare_linear import gain


def usual(settings: Mapping[str, Any]) -> float:
    """The scale of a sum of as many task vectors as meet in an entry.

    Of k entries, each kept with probability p and divided by it, the average of those kept is 1 - (1 - p)^k over p of the
    average of all: a sum of all where p is small, an average where it is 1.
    """
    weight, p = settings["weight"], settings["density"]
    dropped = float((1.0 - p).prod())
    terms = (1.0 - dropped) / float(p.mean()) if settings["normalize"] and p.any() else len(weight)
    return of_terms(weight, terms)


@method(paper="2311.03099", preserves_l1=by_l1, usual=usual)
def dare_ties(
    count: Count,
    *,
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.1),
    rescale: Literal["probability", "l1", "none"] = "probability",
    normalize: bool = True,
    scale: Auto = "auto",
) -> Consensus:
    """Drop entries at random, scale up the rest, elect a sign per parameter, average those that agree.

        d_i = m_i (x_i - base) / p_i,  m_i ~ Bernoulli(p_i) per entry;   s = sign(sum_i w_i d_i)
        out = base + scale * sum_i w_i d_i / sum_i w_i   over the models with sign(w_i d_i) = s

    The coins are keyed by seed, tensor, model and entry: the same seed gives the same bytes on any machine.

    Settings:
        weight: factor of each task vector, in the election as in the sum.
        density: p, the probability that an entry is kept, in [0, 1]: one minus the paper's drop rate, which
            is 0.9 for encoders and was swept from 0.1 to 0.9 for language models. 0 keeps nothing, 1 all.
        rescale: `probability` divides what is kept by p (the paper). `l1` multiplies it by one number so
            that, tensor by tensor, the sum of magnitudes is as before (mergekit). `none` leaves it.
        normalize: divide by the weights of those that agree (the disjoint mean of TIES). mergekit's default
            is false.
        scale: factor of the whole sum. `auto` is m^(-3/4) where no weight is given, else 1. m is k, or with normalize
            (1 - (1 - p)^k) / p: of a low density too few entries meet for the average to be one.

    Source: Yu et al. 2024 (arXiv 2311.03099) for the dropping; Yadav et al. 2023 (arXiv 2306.01708) for the
    election. The trimming of TIES is left out, since dropping takes its place.

    Use it where dare_linear is used and the task vectors contradict each other. At a low density two models
    rarely keep the same entry, so that little is elected.
    """
    assert not isinstance(scale, str)  # settled
    return Consensus(
        weight,
        probability=density,
        gain=gain(density) if rescale == "probability" else None,
        preserve_l1=rescale == "l1",
        elect=True,
        normalize=normalize,
        scale=scale,
    )
