"""Model Breadcrumbs: drop the largest and the smallest entries of each task vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mergery.method import Auto, Deltas, Fraction, Largest, PerModel, Sum, Tensor, each, method
from mergery.method.compiled import compiled
from mergery.methods._scale import of_terms
from mergery.methods._thinning import by_l1, combine, magnitudes, restore
from mergery.methods._weights import check_sum

if TYPE_CHECKING:
    import numpy as np


def counts(n: int, density: float, gamma: float) -> tuple[int, int]:
    """Of n entries by falling magnitude, how many are dropped first and how many of the next are kept.

    `density` comes first: where both do not fit, fewer of the largest are dropped.
    """
    keep = max(1, int(density * n)) if density > 0.0 else 0
    return min(int(gamma * n), max(0, n - keep)), keep


def first_rank(n: int, settings: Mapping[str, Any]) -> int:
    """The rank of the largest entry that is kept."""
    return counts(n, settings["density"], settings["gamma"])[0] + 1


def last_rank(n: int, settings: Mapping[str, Any]) -> int:
    """The rank of the smallest entry that is kept; 0 where none is."""
    drop, keep = counts(n, settings["density"], settings["gamma"])
    return drop + keep if keep else 0


def usual(settings: Mapping[str, Any]) -> float:
    """The scale of a sum in which an entry of one model meets those of the others that keep theirs."""
    if settings["normalize"]:
        return 1.0
    density = settings["density"]
    return of_terms(settings["weight"], 1.0 + (len(density) - 1) * float(density.mean()))


def by_tensor(settings: Mapping[str, Any]) -> bool:
    return settings["scope"] == "tensor"


def middle(
    deltas: Deltas,
    most: Sequence[float] | None,
    least: Sequence[float] | None,
    density: np.ndarray,
    gamma: np.ndarray,
) -> list[Tensor]:
    """Each task vector (rows, n) with both tails zero: by thresholds where given, else row by row."""
    result = []
    for model, delta in enumerate(deltas):
        size = delta.abs()
        if most is not None and least is not None:
            keep = (size <= most[model]) & (size >= least[model])
        else:
            drop, count = counts(size.shape[-1], float(density[model]), float(gamma[model]))
            order = size.argsort(dim=-1, descending=True, stable=True)
            keep = size.new_zeros(size.shape).scatter_(-1, order[..., drop : drop + count], 1.0) > 0.0
        result.append(delta.where(keep, delta.new_zeros(())))
    return result


def trimmed(
    deltas: Deltas,
    most: Sequence[float] | None,
    least: Sequence[float] | None,
    before: Sequence[float] | None,
    after: Sequence[float] | None,
    density: np.ndarray,
    gamma: np.ndarray,
) -> list[Tensor]:
    """Task vectors without their tails, rescaled."""
    thinned = middle(deltas, most, least, density, gamma)
    return thinned if before is None or after is None else restore(thinned, before, after)


@compiled("mergery.methods.compiled.masks:breadcrumbs_before")
def sizes(deltas: Deltas) -> list[Tensor]:
    return magnitudes(deltas)


@compiled("mergery.methods.compiled.masks:breadcrumbs_after")
def kept_sizes(
    deltas: Deltas,
    most: Sequence[float] | None,
    least: Sequence[float] | None,
    density: np.ndarray,
    gamma: np.ndarray,
) -> list[Tensor]:
    return magnitudes(middle(deltas, most, least, density, gamma))


@method(paper="2312.06795", unit="row", check=check_sum, usual=usual, additive={})
@compiled("mergery.methods.compiled.masks:breadcrumbs")
def breadcrumbs(
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
    normalize: bool = False,
    scale: Auto = "auto",
) -> Tensor:
    """Drop both tails of each task vector by size, and add what lies between.

        by falling |x_i - base|: drop floor(gamma n) entries, keep the next max(1, floor(density n)) as d_i
        out = base + scale * sum_i w_i d_i

    Where the two do not fit, fewer of the largest are dropped, so that the density is kept. In a row, entries
    of equal magnitude rank in their order and the counts are exact; with `scope: tensor`, entries that tie
    with a bound are kept.

    Settings:
        weight: factor of each task vector.
        density: fraction that is kept, in [0, 1]; 0.05 to 0.2 in the paper's code, 1 is task arithmetic.
        gamma: fraction of the largest entries that is dropped, in [0, 1]; 0.001 to 0.01 in the paper's code.
        scope: n counts the entries of each row (an output neuron's weights; the paper's code) or of the
            tensor (mergekit).
        rescale: `l1` multiplies what is kept so that, tensor by tensor, the sum of magnitudes is as before.
        normalize: divide by the sum of the weights, which must not be zero. The paper does not.
        scale: the paper's alpha; about 0.2 to 0.4 for many models. `auto` is m^(-3/4) where no weight is given and
            normalize is false, else 1; m is 1 + (k - 1) p, about how many models meet in an entry at a density p.

    Source: Davari and Belilovsky 2024, Model Breadcrumbs (arXiv 2312.06795).

    Use it to add many task vectors: it needs less tuning of `scale` than plain task arithmetic as models are
    added.
    """
    assert not isinstance(scale, str)  # settled
    thinned = trimmed(deltas, most, least, before, after, density, gamma)
    return combine(thinned, weight, elect=False, normalize=normalize) * scale
