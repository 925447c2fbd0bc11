"""NeuroMerging: task vectors split along and across each neuron's own weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from mergery.method import Base, Deltas, Fraction, Largest, PerModel, Preset, Shape, Sum, Tensor, each, method

NOISE = 1e-6
"""Of a row's largest coordinate: smaller ones are rounding, and take no part in elections."""


def trim(deltas: Deltas, cut: Sequence[float]) -> list[Tensor]:
    return [delta * (delta.abs() >= least) for delta, least in zip(deltas, cut, strict=True)]


def losses(deltas: Deltas, cut: Sequence[float]) -> list[Tensor]:
    """What trimming takes of each task vector's magnitudes, and then all of them."""
    sizes = [delta.abs() for delta in deltas]
    return [*(size * (size < least) for size, least in zip(sizes, cut, strict=True)), *sizes]


def elected(values: Tensor) -> Tensor:
    """Over the models (dimension 0), the mean of the values that have the sign of the sum, those of zero aside."""
    sign = (values.sum(0) >= 0.0) * 2.0 - 1.0
    agrees = values * sign > 0.0
    count = agrees.sum(0)
    return (values * agrees).sum(0) / count.clamp(min=1)


def across(rows: Tensor) -> Tensor:
    """Merge vectors (k, rows, n), row by row, in the coordinates of their singular vectors: (rows, n).

    The coordinates of model i along direction j are Q_ij s_j, from the eigenvectors Q and eigenvalues s^2 of the rows'
    Gram matrices, so that no direction is ever formed.
    """
    import torch

    k = len(rows)
    gram = torch.stack([torch.stack([(rows[i] * rows[j]).sum(-1) for j in range(k)], -1) for i in range(k)], -2)
    square, q = torch.linalg.eigh(gram)
    length = square.clamp(min=0.0).sqrt()
    places = q * length[:, None, :]
    largest = places.abs().amax((1, 2), keepdim=True)
    places = places * (places.abs() > NOISE * largest)
    merged = elected(places.transpose(0, 1))
    inverse = torch.where(length > NOISE * largest[:, 0], 1.0 / length, 0.0)
    shares = (q * (merged * inverse)[:, None, :]).sum(-1)
    total = shares[:, 0, None] * rows[0]
    for i in range(1, k):
        total = total + shares[:, i, None] * rows[i]
    return total


@method(paper="2503.05320", unit="row", presets={"paper": Preset({"restored": 1.0})})
def neuromerging(
    deltas: Deltas,
    base: Annotated[Tensor, Base()],
    shape: Annotated[tuple[int, ...], Shape()],
    cut: Annotated[list[float], Largest("density")],
    l1_norms: Annotated[list[float], Sum(losses)],
    *,
    density: PerModel[Fraction] = each(0.1),
    parallel: float = 0.0,
    orthogonal: float | None = None,
    restored: Fraction = 0.5,
    scope: Literal["model", "tensor"] = "model",
) -> Tensor:
    """Merge each neuron's changes along its own weights and across them, by election in each.

        trim     d_i = x_i - base where |x_i - base| is among its max(1, floor(density n)) largest, else 0
        split    row by row: p_i = d_i . base / |base|^2,  e_i = d_i - p_i base
        elect    in p_i, and in the coordinates of the e_i along their own singular vectors: the mean of those that
                 have the sign of the sum
        merge    out = base + parallel * p base + orthogonal * e

    A row holds the weights of one output neuron. Vectors (norms, biases) are merged by the election alone, entry by
    entry, without a factor. A base row of zeros has no direction.

    Settings:
        density: fraction of each task vector that is kept, in [0, 1]; the paper keeps 0.05 to 0.15. 0 keeps
            nothing.
        parallel: the paper's lambda_1, the factor of changes along the neuron, which the paper finds to matter
            little; 0 without validation data.
        orthogonal: the paper's lambda_2, the factor of the others. null is (1 - r)^(-restored), r being the largest
            part of a task vector's magnitudes that trimming took.
        restored: how much of what trimming took is made up for, in [0, 1]. With 1, the paper's choice, what is kept is
            enlarged about 3 times at a density of 0.1, which is more than adapters stand.
        scope: the fraction, and r, are of the whole model (the paper) or of each tensor.

    Source: Fang et al. 2025, To see a world in a spark of neuron (arXiv 2503.05320). Coordinates that are rounding
    noise take no part, which they do in the authors' code.

    Use it where TIES is used, for models whose conflicts are within neurons; it costs an eigenvalue problem of
    the models' number for each row.
    """
    import torch

    trimmed = torch.stack(trim(deltas, cut)).double()
    if len(shape) < 2:
        return elected(trimmed).float()
    factor = orthogonal
    if factor is None:
        k = len(deltas)
        lost = max(l1_norms[i] / l1_norms[k + i] if l1_norms[k + i] > 0.0 else 0.0 for i in range(k))
        factor = float((1.0 - lost) ** -restored) if lost < 1.0 else 0.0
    own = base.double()
    square = own.square().sum(-1, keepdim=True)
    along = (trimmed * own).sum(-1, keepdim=True) / square.where(square > 0.0, square.new_ones(()))
    merged = elected(along) * own * parallel + across(trimmed - along * own) * factor
    return merged.float()
