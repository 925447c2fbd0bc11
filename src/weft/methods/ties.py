"""TIES: trim, elect sign, disjoint mean."""

from __future__ import annotations

from typing import Annotated, Literal

from weft.method import Consensus, Count, Fraction, Largest, PerModel, each, method


@method(paper="2306.01708")
def ties(
    count: Count,
    cut: Annotated[list[float], Largest("density")],
    *,
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.2),
    scope: Literal["tensor", "model"] = "model",
    rescale: Literal["none", "l1"] = "none",
    normalize: bool = True,
    scale: float = 1.0,
) -> Consensus:
    """Trim each task vector to its largest entries, elect a sign per parameter, average those that agree.

        trim     d_i = x_i - base where |x_i - base| is among its k = max(1, floor(density n)) largest, else 0
        elect    s = sign(sum_i w_i d_i), a sum of zero counting as positive
        merge    out = base + scale * sum_i w_i d_i / sum_i w_i   over the models with sign(w_i d_i) = s

    Entries that tie with the k-th largest are all kept.

    Settings:
        weight: factor of each task vector, in the election as in the sum.
        density: fraction of each task vector that is kept, in [0, 1]; the paper keeps 0.2. 0 keeps nothing, 1
            all.
        scope: n counts the entries of each tensor, or of the whole model (the paper): tensors that changed
            more then keep more.
        rescale: `l1` multiplies each trimmed task vector so that, tensor by tensor, its sum of magnitudes is
            as before.
        normalize: divide by the weights of those that agree (the paper's disjoint mean); false takes their
            sum.
        scale: the paper's lambda; 1 without validation data, else tuned between 0.8 and 2.5.

    Source: Yadav et al. 2023, TIES-Merging (arXiv 2306.01708). A sum of exactly zero takes the majority sign
    of the whole model there; here it counts as positive.

    Use it for several fine-tunes of one base that interfere: most entries of a task vector matter little, and
    opposite signs cancel what matters.
    """
    return Consensus(weight, least=cut, preserve_l1=rescale == "l1", elect=True, normalize=normalize, scale=scale)
