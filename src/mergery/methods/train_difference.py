"""Train difference: add the change of another model as its own training would have made it."""

from __future__ import annotations

from typing import Annotated

from mergery.method import Base, Models, Tensor, method


@method(paper="sd-mecha", models=(2, 2), symmetric=False)
def train_difference(models: Models, base: Annotated[Tensor, Base()], *, scale: float = 1.0) -> Tensor:
    """Add the step from A to B to the base, less where the base is already near B.

        out = base + scale * 1.8 |B - base| / (|B - base| + |B - A|) * (B - A),   models: [A, B]

    The factor is 0 where the base equals B, and nears 1.8 where it is much further from B than A was; where base and A
    are equal it is 0.9.

    Settings:
        scale: factor of what is added.

    Source: train_difference_mask of sd-mecha 1.1.5, after the tool for image models of that name.

    Use it instead of `analogy` where the base has learned part of B's step by itself, which a plain sum would count
    twice.
    """
    before, after = models
    gap = (after - base).abs()
    step = after - before
    total = gap + step.abs()
    return base + step * (gap / total.where(total > 0.0, total.new_ones(()))) * (1.8 * scale)
