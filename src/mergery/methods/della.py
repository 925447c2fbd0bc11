"""DELLA: drop by magnitude and chance, elect a sign, fuse."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mergery.method import Deltas, Fraction, PerModel, Random, Sum, Tensor, each, method
from mergery.method.compiled import compiled
from mergery.methods._thinning import by_l1, combine
from mergery.methods.della_linear import check_window, kept_sizes, magprune, sizes


@method(paper="2406.11617", unit="row", check=check_window)
@compiled("mergery.methods.compiled.masks:della")
def della(
    deltas: Deltas,
    random: Annotated[Any, Random()],
    before: Annotated[list[float] | None, Sum(sizes, when=by_l1)],
    after: Annotated[list[float] | None, Sum(kept_sizes, when=by_l1)],
    *,
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.7),
    window: PerModel[Fraction] = each(0.14),
    rescale: Literal["probability", "l1", "none"] = "probability",
    normalize: bool = True,
    scale: float = 1.0,
) -> Tensor:
    """Drop small entries more often than large ones, elect a sign per parameter, average those that agree.

        q = density - window / 2 + window (rank - 1) / (n - 1),   rank 1..n of |x_i - base| in its row, rising
        d_i = m_i (x_i - base) / q,  m_i ~ Bernoulli(q) per entry
        s = sign(sum_i w_i d_i), zero counting as positive
        out = base + scale * sum_i w_i d_i / sum_i w_i   over the models with sign(w_i d_i) = s

    A row holds the weights of one output neuron; a vector is one row, and a row of one entry has q = density.
    The coins are keyed by seed, tensor, model and entry: the same seed gives the same bytes on any machine.

    Settings:
        weight: factor of each task vector, in the election as in the sum.
        density: mean probability that an entry is kept, in [0, 1]: one minus the paper's drop rate, 0.3 in
            its code.
        window: the whole width of the ramp of probabilities from the smallest entry to the largest, in [0,
            1]; density - window / 2 and density + window / 2 must lie in [0, 1]. mergekit's epsilon is half
            of it.
        rescale: `probability` divides each kept entry by its own q (the paper). `l1` multiplies the kept
            entries by one number so that, tensor by tensor, the sum of magnitudes is as before (mergekit).
            `none` leaves them.
        normalize: divide by the weights of those that agree (the paper); false takes their sum.
        scale: the paper's lambda; 1.1 in its code.

    Source: Deep, Bhardwaj, Poria 2024, DELLA-Merging (arXiv 2406.11617).

    Use it for several fine-tunes of one base, in place of dare_ties, where the size of an entry says
    something about its worth.
    """
    thinned = magprune(deltas, random, before, after, density, window, rescale)
    return combine(thinned, weight, elect=True, normalize=normalize) * scale
