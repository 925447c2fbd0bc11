"""TIES: trim, elect sign, disjoint mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Consensus, Count, Fraction, Largest, PerModel, Sum, Tensor, each, method
from mergery.methods._thinning import by_l1

if TYPE_CHECKING:
    import numpy as np


def check_vote(settings: Mapping[str, Any]) -> None:
    if settings["zero"] == "majority" and settings["rescale"] == "l1":
        raise RecipeError(
            "zero: majority does not go with rescale: l1",
            why="the vote is of the trimmed task vectors",
            hint="rescale: none",
        )
    if settings["vote"] == "alike" and (settings["function"] != "sum" or settings["zero"] == "majority"):
        raise RecipeError(
            "vote: alike goes with function: sum and zero: positive",
            why="weights that take no part in the election are factors of the sum",
            hint="function: sum, or vote: weighted",
        )


def kept(n: int, settings: Mapping[str, Any]) -> int:
    """How many entries are kept, ties aside."""
    density = settings["density"]
    if density <= 0.0:
        return 0
    return int(density * n) + 1 if settings["keep"] == "one_more" else max(1, int(density * n))


def by_majority(settings: Mapping[str, Any]) -> bool:
    return settings["zero"] == "majority"


def signs(deltas: list[Tensor], cut: list[float], weight: np.ndarray) -> Tensor:
    """The elected sign of each entry, 0 where the vote is even."""
    vote = deltas[0].new_zeros(deltas[0].shape)
    for delta, least, own in zip(deltas, cut, weight, strict=True):
        vote = vote + delta * (delta.abs() >= least) * float(own)
    return vote.sign()


@method(paper="2306.01708", check=check_vote, preserves_l1=by_l1, additive={"function": "sum", "vote": "alike"})
def ties(
    count: Count,
    cut: Annotated[list[float], Largest(kept)],
    majority: Annotated[float | None, Sum(signs, when=by_majority)],
    *,
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.2),
    scope: Literal["tensor", "model"] = "model",
    keep: Literal["floor", "one_more"] = "floor",
    zero: Literal["positive", "majority"] = "positive",
    rescale: Literal["none", "l1"] = "none",
    function: Literal["mean", "sum", "max"] = "mean",
    vote: Literal["weighted", "alike"] = "weighted",
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
        keep: `one_more` keeps floor(density n) + 1 entries, as the authors' code does.
        zero: the sign of a sum of exactly zero: `positive`, or that of most elected signs (`majority`, the authors'
            code), counted over what `scope` says; it is positive where that is even too.
        rescale: `l1` multiplies each trimmed task vector so that, tensor by tensor, its sum of magnitudes is
            as before.
        function: `mean` divides by the weights of those that agree (the paper's disjoint mean), `sum` does not, `max`
            takes the largest w_i d_i of the elected sign.
        vote: whether weights take part in the election. With `alike` they do not: s = sign(sum_i d_i), and the sum is over
            the models with sign(d_i) = s, whatever their weights. For sums.
        scale: the paper's lambda; 1 without validation data, else tuned between 0.8 and 2.5, about 0.3 for sums of
            eight tasks.

    Source: Yadav et al. 2023, TIES-Merging (arXiv 2306.01708). Their code
    differs from the paper in two details; the settings `keep: one_more` and `zero: majority` follow the code.

    Use it for several fine-tunes of one base that interfere: most entries of a task vector matter little, and
    opposite signs cancel what matters.
    """
    return Consensus(
        weight,
        least=cut,
        preserve_l1=rescale == "l1",
        elect=True,
        zero=1.0 if majority is None or majority >= 0.0 else -1.0,
        normalize=function == "mean",
        largest=function == "max",
        alike=vote == "alike",
        scale=scale,
    )
