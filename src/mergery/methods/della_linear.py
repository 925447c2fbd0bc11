"""DELLA without the election of signs, and MagPrune, the pruning of both variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Auto, Deltas, Fraction, PerModel, Random, Sum, Tensor, each, method
from mergery.method.compiled import compiled
from mergery.methods._scale import of_sum
from mergery.methods._thinning import by_l1, combine, magnitudes, restore
from mergery.methods._weights import check_sum

if TYPE_CHECKING:
    import numpy as np


def check_window(settings: Mapping[str, Any]) -> None:
    """Refuse a ramp of probabilities that leaves [0, 1]."""
    for density, window in zip(settings["density"], settings["window"], strict=True):
        low, high = density - window / 2, density + window / 2
        if low < -1e-12 or high > 1.0 + 1e-12:
            raise RecipeError(
                f"window {window:g} does not fit density {density:g}",
                why=f"the probabilities of being kept would run from {low:g} to {high:g}",
                hint=f"a window of at most {2 * min(density, 1.0 - density):g}, or density nearer to 0.5",
            )


def check_linear(settings: Mapping[str, Any]) -> None:
    check_window(settings)
    check_sum(settings)


def steps(n: int, density: float, window: float) -> np.ndarray:
    """The probabilities of keeping the entries of a row of n, by rising magnitude: float32 (n,).

    They rise in equal steps from density - window / 2 to density + window / 2. A row of one entry has `density`.
    """
    import numpy as np

    if n < 2:
        return np.full(n, density, dtype=np.float32)
    way = np.arange(n, dtype=np.float64) / (n - 1)
    return np.clip((density - window / 2) + window * way, 0.0, 1.0).astype(np.float32)


def ramp(delta: Tensor, density: float, window: float) -> Tensor:
    """The probability of keeping each entry of a matrix (rows, n): by the rank of its magnitude in its row.

    Equal magnitudes rank in their order in the row.
    """
    import torch

    order = delta.abs().argsort(dim=-1, stable=True)
    by_rank = torch.from_numpy(steps(delta.shape[-1], density, window)).to(delta.device)
    return torch.empty_like(delta).scatter_(-1, order, by_rank.expand_as(delta))


def kept(deltas: Deltas, random: Any, density: np.ndarray, window: np.ndarray, rescale: str) -> list[Tensor]:
    """The entries on which the coin falls, divided by their probability where so said; zeros elsewhere."""
    result = []
    for model, delta in enumerate(deltas):
        chance = ramp(delta, float(density[model]), float(window[model]))
        value = delta / chance if rescale == "probability" else delta
        result.append(value.where(random.uniform(model) < chance, delta.new_zeros(())))
    return result


def magprune(
    deltas: Deltas,
    random: Any,
    before: Sequence[float] | None,
    after: Sequence[float] | None,
    density: np.ndarray,
    window: np.ndarray,
    rescale: str,
) -> list[Tensor]:
    """Task vectors thinned by magnitude and chance, and rescaled."""
    thinned = kept(deltas, random, density, window, rescale)
    return thinned if before is None or after is None else restore(thinned, before, after)


@compiled("mergery.methods.compiled.masks:della_before")
def sizes(deltas: Deltas) -> list[Tensor]:
    return magnitudes(deltas)


@compiled("mergery.methods.compiled.masks:della_after")
def kept_sizes(deltas: Deltas, random: Any, density: np.ndarray, window: np.ndarray, rescale: str) -> list[Tensor]:
    return magnitudes(kept(deltas, random, density, window, rescale))


@method(paper="2406.11617", unit="row", check=check_linear, usual=of_sum, additive={})
@compiled("mergery.methods.compiled.masks:della_linear")
def della_linear(
    deltas: Deltas,
    random: Annotated[Any, Random()],
    before: Annotated[list[float] | None, Sum(sizes, when=by_l1)],
    after: Annotated[list[float] | None, Sum(kept_sizes, when=by_l1)],
    *,
    weight: PerModel[float] = each(1.0),
    density: PerModel[Fraction] = each(0.7),
    window: PerModel[Fraction] = each(0.14),
    rescale: Literal["probability", "l1", "none"] = "probability",
    normalize: bool = False,
    scale: Auto = "auto",
) -> Tensor:
    """Drop small entries of each task vector more often than large ones, scale up the rest, and add.

        q = density - window / 2 + window (rank - 1) / (n - 1),   rank 1..n of |x_i - base| in its row, rising
        d_i = m_i (x_i - base) / q,  m_i ~ Bernoulli(q) per entry;   out = base + scale * sum_i w_i d_i

    A row holds the weights of one output neuron; a vector is one row, and a row of one entry has q = density.
    The coins are keyed by seed, tensor, model and entry: the same seed gives the same bytes on any machine.

    Settings:
        weight: factor of each task vector.
        density: mean probability that an entry is kept, in [0, 1]: one minus the paper's drop rate, 0.3 in
            its code.
        window: the whole width of the ramp of probabilities from the smallest entry to the largest, in [0,
            1]; density - window / 2 and density + window / 2 must lie in [0, 1]. 0 gives DARE. mergekit's
            epsilon is half of it.
        rescale: `probability` divides each kept entry by its own q (the paper), so that the expected task
            vector is the original. `l1` multiplies the kept entries by one number so that, tensor by tensor,
            the sum of magnitudes is as before (mergekit). `none` leaves them.
        normalize: divide by the sum of the weights, which must not be zero.
        scale: factor of the whole sum; 1.1 in the paper's code. `auto` is k^(-3/4) where no weight is given and
            normalize is false, else 1.

    Source: Deep, Bhardwaj, Poria 2024, DELLA-Merging (arXiv 2406.11617), its variant without election.

    Use it in place of dare_linear where the size of an entry says something about its worth.
    """
    assert not isinstance(scale, str)  # settled
    thinned = magprune(deltas, random, before, after, density, window, rescale)
    return combine(thinned, weight, elect=False, normalize=normalize) * scale
