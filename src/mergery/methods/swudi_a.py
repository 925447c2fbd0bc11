"""SWUDI-A: the minimum of WUDI's loss on as many eigenvectors as the spectrum itself asks for."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from mergery.method import Auto, Deltas, MergedDelta, Noise, PerModel, Preset, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.methods.swudi import HAIR, filtered, leading, routing
from mergery.methods.wudi import check_weight

SQUARE = 0.9999  # ratio of the sides, from which the authors' code takes a matrix for square


def participating(values: Tensor) -> Tensor:
    """The participation ratio of the roots of eigenvalues (..., r), rounded up: int64 (...), at least 1."""
    root = values.sqrt()
    whole = root.square().sum(-1)
    ratio = root.sum(-1).square() / whole.where(whole > 0.0, 1.0)
    return (ratio - HAIR).ceil().long().clamp(min=1)


def above_noise(values: Tensor, rows: int, into: int) -> Tensor:
    """How many roots of eigenvalues (..., r) exceed Gavish and Donoho's bound for a rows x into matrix: int64 (...)."""
    small, large = min(rows, into), max(rows, into)
    ratio = small / large
    factor = 0.56 * ratio**3 - 0.95 * ratio**2 + 1.82 * ratio + 1.43
    root = values.sqrt()
    full = filled(root, small)
    middle = (full[..., (small - 1) // 2] + full[..., small // 2]) / 2.0  # they are in order
    return (root > factor * middle.unsqueeze(-1)).sum(-1)


def above_published(values: Tensor, rows: int, out: int, into: int) -> Tensor:
    """How many roots of eigenvalues (..., r) of a rows x into matrix exceed the bound of the authors' code, which takes the
    shape of one task vector (out x into): int64 (...), at least 1.
    """
    ratio = min(out, into) / max(out, into)
    known = math.sqrt(2.0 * (ratio + 1.0) + 8.0 * ratio / (ratio + 1.0 + math.sqrt(ratio**2 + 14.0 * ratio + 1.0)))
    middle = math.sqrt(2.0 + math.sqrt(3.0)) if ratio >= SQUARE else math.sqrt((1.0 - ratio) ** 2 + ratio)
    small = min(rows, into)
    root = values.sqrt()
    lower = filled(root, small)[..., small // 2].unsqueeze(-1)  # of an even number, the lower of the two in the middle
    return (root > known / middle * lower).sum(-1).clamp(min=1)


def filled(root: Tensor, count: int) -> Tensor:
    """Roots (..., r), largest first, and zeros up to a number of them: (..., count or r)."""
    import torch

    return torch.cat([root, root.new_zeros(*root.shape[:-1], max(0, count - root.shape[-1]))], dim=-1)


@method(
    paper="2606.07289",
    unit="matrix",
    check=check_weight,
    roles=LINEAR,
    presets={"paper": Preset({"start": "sum", "scale": 1.0})},
    routing=routing,
)
def swudi_a(
    deltas: Deltas,
    noise: Annotated[list[Tensor], Noise()],
    *,
    weight: PerModel[float] = each(1.0),
    rule: Literal["participation", "noise", "published"] = "participation",
    start: Literal["mean", "sum"] = "mean",
    precision: Literal["fast", "exact"] = "fast",
    scale: Auto = "auto",
) -> MergedDelta:
    """Minimise WUDI's loss along the leading eigenvectors, whose number follows from the eigenvalues.

        d_i = x_i - base;   C = sum_i w_i S_i = Q L Q^T,   S_i = d_i^T d_i / |d_i|^2;   D* = (sum_i w_i d_i S_i) C^+
        out = base + scale * (D_0 + (D* - D_0) Q_K Q_K^T),   K = (sum sqrt(L))^2 / sum L

    The number K is the participation ratio of the roots of the eigenvalues, rounded up: as many as would take part if
    all were equal. It has nothing to tune.

    Settings:
        weight: weight of each task, not negative.
        rule: how K is found: as above, or as the number of roots that Gavish and Donoho's bound, a multiple of
            their median, tells from noise (`noise`). The authors prefer such a bound for full fine-tunes of language
            models; theirs (`published`) takes the shape of one task vector for that of all, and a lower multiple: 1.20
            for square matrices, where Gavish and Donoho have 2.86. At least one direction takes part there.
        start: the mean of the task vectors, an option of the authors' code, or their sum, its default. Outside the K
            directions it stays.
        precision: `fast` makes products of matrices with 512 and more inputs in float32, and the eigenvectors in float64,
            which changes the result by about a millionth; `exact` makes all in float64, in nearly twice the time.
        scale: factor of the merged task vector. `auto` is 1 where task vectors are of full rank. What adapters change
            shows little of their inputs: there each matrix is scaled so that it disturbs the tasks least.

    Source: Wei et al. 2026 (arXiv 2606.07289) and its code, `aswudi_merge` in WalkerWorldPeace/MLLMerging. The preset
    `paper` begins at the sum. Everything but the matrices of attention and MLPs is averaged.

    Use it where fine-tunes have inputs of their own and you can wait, beside `svc`: it needs no tuning, but one large
    eigenbasis for each matrix, which takes hundreds of times as long as `linear` does. `mergery plan` says how long.
    """
    out = int(deltas[0].shape[-2])
    rows = out * len(deltas)

    def share(values: Tensor, into: int) -> Tensor:
        if rule == "participation":
            return leading(values, participating(values))
        return leading(
            values, above_noise(values, rows, into) if rule == "noise" else above_published(values, rows, out, into)
        )

    return filtered(deltas, noise, weight, start, share, precision, scale)
