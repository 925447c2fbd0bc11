"""SCE: select by variance, calculate weights, erase minorities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mergery.method import Deltas, Fraction, Largest, Sum, Tensor, method
from mergery.method.compiled import compiled


@compiled("mergery.methods.compiled.variance:spread", each=False)
def spread(deltas: Deltas) -> Tensor:
    """The standard deviation of each entry across the models (population; exactly 0 where all are equal)."""
    import torch

    first = deltas[0].double()
    total, square = torch.zeros_like(first), torch.zeros_like(first)
    for delta in deltas[1:]:
        apart = delta.double() - first
        total, square = total + apart, square + apart * apart
    share = 1.0 / len(deltas)
    return ((square - total * total * share) * share).sqrt().to(torch.float32)


def selected(n: int, settings: Mapping[str, Any]) -> int:
    """How many of the n entries that vary are selected."""
    return int(settings["select_topk"] * n)


def selects(settings: Mapping[str, Any]) -> bool:
    return settings["select_topk"] < 1.0


def select(deltas: Deltas, cut: float | None) -> list[Tensor]:
    """The task vectors with zeros where the models vary less than `cut`."""
    if cut is None:
        return deltas
    chosen = spread(deltas) >= cut
    return [delta * chosen for delta in deltas]


@compiled("mergery.methods.compiled.variance:energies")
def energies(deltas: Deltas, cut: float | None) -> list[Tensor]:
    """The squares of the selected entries."""
    return [delta.double().square() for delta in select(deltas, cut)]


def shares(energy: list[float]) -> list[float]:
    """The weight of each model: its part of all energy."""
    total = sum(energy)
    return [own / total if total > 0.0 else 1.0 / len(energy) for own in energy]


@method(paper="2408.07990")
@compiled("mergery.methods.compiled.variance:sce")
def sce(
    deltas: Deltas,
    cut: Annotated[float | None, Largest(selected, spread, nonzero=True, when=selects)],
    energy: Annotated[list[float], Sum(energies)],
    *,
    select_topk: Fraction = 0.1,
    select_applies_to: Literal["values", "weights"] = "values",
    scale: float = 1.0,
) -> Tensor:
    """Select where the models differ most, weigh each by its energy there, erase minority signs.

        select     d_i = x_i - base where the variance across models is among the floor(select_topk m)
                   largest, else 0; m counts the entries whose variance is not zero
        calculate  w_i = sum(d_i^2) / sum_j sum(d_j^2), one weight for each model and tensor
        erase      s = sign(sum_i d_i), zero counting as positive
        merge      out = base + scale * sum_i w_i d_i / sum_i w_i   over the models with sign(d_i) = s

    Below select_topk = 1, entries on which all models agree are never selected: there the result is the base.

    Settings:
        select_topk: the paper's tau, the fraction of varying entries that is selected, in [0, 1]; 0.1 for
            FuseChat-7B. 1 selects everything (FuseO1).
        select_applies_to: `values` merges the selected entries only (the paper's text, mergekit). `weights`
            uses them for the weights and merges all entries (the authors' code).
        scale: factor of the merged task vector.

    Source: Wan et al. 2024, FuseChat (arXiv 2408.07990). If all energies are zero, the weights are equal.

    Use it for chat models with one pivot as the base, where no weights are known: they follow from how far
    each model moved, tensor by tensor.
    """
    weights = shares(energy)
    if select_applies_to == "values":
        deltas = select(deltas, cut)
    vote = deltas[0].double()
    for delta in deltas[1:]:
        vote = vote + delta
    sign = (vote >= 0.0).float() * 2.0 - 1.0
    merged, share = deltas[0].new_zeros(sign.shape), deltas[0].new_zeros(sign.shape)
    for delta, weight in zip(deltas, weights, strict=True):
        agrees = delta * sign > 0.0
        merged += weight * delta * agrees
        share += weight * agrees
    return merged / share.where(share != 0.0, share.new_ones(())) * scale
