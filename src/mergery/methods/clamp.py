"""Clamp: keep a model within the range of others."""

from __future__ import annotations

from mergery.method import Models, Tensor, method


@method(paper="sd-mecha", models=(2, None), symmetric=False)
def clamp(models: Models) -> Tensor:
    """Move each parameter of the first model into the range that the other models span.

        out = min(max(x_1, min_j x_j), max_j x_j)   over the other models j, entry by entry

    With one other model, that model is the result. It has no settings.

    Source: clamp of sd-mecha 1.1.5.

    Use it after an extrapolation (a stage of `expo` or of a large `scale`) to keep it between models that are
    known to work.
    """
    first, *others = models
    highest = lowest = others[0]
    for other in others[1:]:
        highest, lowest = highest.maximum(other), lowest.minimum(other)
    return first.maximum(lowest).minimum(highest)
