"""Model Breadcrumbs with the sign election of TIES."""

from __future__ import annotations

from typing import Annotated, Literal

from mergery.method import Deltas, Fraction, Largest, PerModel, Sum, Tensor, each, method
from mergery.method.compiled import compiled
from mergery.methods._thinning import by_l1, combine
from mergery.methods.breadcrumbs import by_tensor, first_rank, kept_sizes, last_rank, sizes, trimmed


@method(paper="2312.06795", unit="row")
@compiled("mergery.methods.compiled.masks:breadcrumbs_ties")
def breadcrumbs_ties(
    deltas: Deltas,
    most: Annotated[list[float] | None, Largest(first_rank, when=by_tensor)],
    least: Annotated[list[float] | None, Largest(last_rank, when=by_tensor)],
    before: Annotated[list[float] | None, Sum(sizes, when=by_l1)],
    after: Annotated[list[float] | None, Sum(kept_sizes, when=by_l1)],
    *,
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.15),
    gamma: PerModel[Fraction] = each(0.006),
    scope: Literal["row", "tensor"] = "row",
    rescale: Literal["none", "l1"] = "none",
    normalize: bool = True,
    scale: float = 1.0,
) -> Tensor:
    """Drop both tails of each task vector by size, elect a sign per parameter, average those that agree.

        by falling |x_i - base|: drop floor(gamma n) entries, keep the next max(1, floor(density n)) as d_i
        s = sign(sum_i w_i d_i), zero counting as positive
        out = base + scale * sum_i w_i d_i / sum_i w_i   over the models with sign(w_i d_i) = s

    Where the two do not fit, fewer of the largest are dropped, so that the density is kept. In a row, entries
    of equal magnitude rank in their order and the counts are exact; with `scope: tensor`, entries that tie
    with a bound are kept.

    Settings:
        weight: factor of each task vector, in the election as in the sum.
        density: fraction that is kept, in [0, 1].
        gamma: fraction of the largest entries that is dropped, in [0, 1].
        scope: n counts the entries of each row (an output neuron's weights) or of the tensor (mergekit).
        rescale: `l1` multiplies what is kept so that, tensor by tensor, the sum of magnitudes is as before.
        normalize: divide by the weights of those that agree (the disjoint mean of TIES). mergekit's default
            is false.
        scale: factor of the whole sum.

    Source: Davari and Belilovsky 2024 (arXiv 2312.06795) for the masks; Yadav et al. 2023 (arXiv 2306.01708)
    for the election.

    Use it where breadcrumbs is used and the task vectors contradict each other.
    """
    thinned = trimmed(deltas, most, least, before, after, density, gamma)
    return combine(thinned, weight, elect=True, normalize=normalize) * scale
