"""Trust region: leave out the parameters over which tasks conflict most."""

from __future__ import annotations

from typing import Annotated, Literal

from mergery.method import Deltas, Fraction, Largest, PerModel, Tensor, each, method


def conflict(deltas: Deltas) -> Tensor:
    """The root of sum over pairs i != j of |d_i| |d_j|; float32."""
    sizes = [delta.abs().double() for delta in deltas]
    seen, total = sizes[0].new_zeros(sizes[0].shape), sizes[0].new_zeros(sizes[0].shape)
    for size in sizes:
        total = total + 2.0 * size * seen
        seen = seen + size
    return total.sqrt().float()


@method(paper="2501.15065", weighs="factors")
def trust_region(
    deltas: Deltas,
    cut: Annotated[float, Largest("drop", conflict)],
    *,
    weight: PerModel[float] = each(1.0),
    drop: Fraction = 0.01,
    scope: Literal["tensor", "model"] = "model",
    scale: float = 0.3,
) -> Tensor:
    """Add the task vectors, except for the parameters that several models changed most.

        conflict = sum over i != j of |d_i| |d_j|,  d_i = x_i - base
        out = base + scale * sum_i w_i d_i where the conflict is below its largest fraction `drop`, else base

    Entries that tie with the bound are left out too; where no two models changed an entry there is no conflict, and it
    is always kept.

    Settings:
        weight: factor of each task vector.
        drop: fraction of the entries that is left out, in [0, 1]; at least one, unless it is 0. 0.01 in the
            paper.
        scope: the fraction is of each tensor, or of the whole model (the paper).
        scale: factor of the sum; 0.3 for eight tasks.

    Source: Sun et al. 2025, Task arithmetic in trust region (arXiv 2501.15065), in its form without data, where the
    task vector's magnitude stands for the gradient's.

    Use it before lowering the scale of task arithmetic for many tasks: a small part of the parameters carries most of
    the conflict.
    """
    total = deltas[0].new_zeros(deltas[0].shape)
    for delta, own in zip(deltas, weight, strict=True):
        total = total + delta * float(own)
    clash = conflict(deltas)
    return total * ((clash < cut) | (clash == 0.0)) * scale
