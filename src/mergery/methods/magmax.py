"""MagMax: of each parameter's changes, the largest."""

from __future__ import annotations

from mergery.method import Deltas, Tensor, method


@method(paper="2407.06322")
def magmax(deltas: Deltas, *, scale: float = 0.5) -> Tensor:
    """Take for each parameter the change of the model that changed it most.

        d_i = x_i - base;   out = base + scale * d_m,   m = argmax_i |d_i|, entry by entry

    Where a positive and a negative change are equally large, the positive one is taken.

    Settings:
        scale: factor of the merged task vector; 0.5 in the authors' code. 1 gives identical models back.

    Source: Marczak et al. 2024, MagMax (arXiv 2407.06322). There, the later of equally large changes is taken.

    Use it for models that were trained one after the other, each going on from the last: their task vectors
    agree where they matter, and averaging would dilute what each learned.
    """
    highest = lowest = deltas[0]
    for delta in deltas[1:]:
        highest, lowest = highest.maximum(delta), lowest.minimum(delta)
    return highest.where(highest >= -lowest, lowest) * scale
