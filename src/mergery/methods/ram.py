"""RAM: average what several models changed, keep what only one changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.errors import RecipeError
from mergery.method import Deltas, Tensor, method
from mergery.method.compiled import compiled


def check_epsilon(settings: Mapping[str, Any]) -> None:
    if settings["epsilon"] < 0.0:
        raise RecipeError(
            f"epsilon is {settings['epsilon']:g}",
            why="it bounds a magnitude, which is not negative",
            hint="epsilon: 1.0e-5",
        )


def changed(deltas: Deltas, epsilon: float) -> tuple[list[Tensor], Tensor]:
    """1 where a model changed an entry, for each model, and how many models did."""
    masks = [(delta.abs() > epsilon).float() for delta in deltas]
    return masks, sum(masks[1:], masks[0])


@method(paper="2601.13572", check=check_epsilon)
@compiled("mergery.methods.compiled.changes:ram")
def ram(deltas: Deltas, *, epsilon: float = 1e-5, scale: float = 1.0) -> Tensor:
    """Add the changes that only one model made, and the average of those that several made.

        out = base + scale * sum_i c_i (x_i - base) / max(1, sum_i c_i),   c_i = |x_i - base| > epsilon

    Settings:
        epsilon: a smaller change counts as none and is left out. In the units of the parameters, not
            negative; 1e-5 in the paper's code. 0 counts every change.
        scale: factor of the merged task vector.

    Source: Yuan et al. 2026, Behavior knowledge merge in reinforced agentic models (arXiv 2601.13572).

    Use it for models trained by reinforcement learning from one base: their task vectors are sparse and
    overlap little, so that plain averaging would dilute what each one learned.
    """
    masks, count = changed(deltas, epsilon)
    kept = [delta * mask for delta, mask in zip(deltas, masks, strict=True)]
    return sum(kept[1:], kept[0]) / count.clamp(min=1.0) * scale
