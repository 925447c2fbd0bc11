"""The multi-task vector, and which of its entries matter to a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mergery.errors import RecipeError
from mergery.methods._thinning import combine

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


def check_thresholds(settings: Mapping[str, Any]) -> None:
    if (settings["threshold"] < 0.0).any():
        raise RecipeError(
            "threshold must not be negative", why="it bounds a ratio of magnitudes", hint="threshold: 0.4"
        )


def check_task(settings: Mapping[str, Any]) -> None:
    """Refuse to serve nothing: a serving method gives one model, that of a task."""
    if settings["task"] is None:
        raise RecipeError(
            "no task is named",
            why="this method serves one of its models at a time",
            hint="task: <a model's name>, or keep them all with `mergery pack`",
        )


def by_ties(settings: Mapping[str, Any]) -> bool:
    return settings["vector"] == "ties"


def together(deltas: Sequence[Tensor], cut: Sequence[float] | None) -> Tensor:
    """The sum of the task vectors; with `cut`, of their trimmed entries of the elected sign (TIES with sums)."""
    import numpy as np

    equal = np.ones(len(deltas))
    if cut is None:
        return combine(deltas, equal, elect=False, normalize=False)
    trimmed = [delta * (delta.abs() >= least) for delta, least in zip(deltas, cut, strict=True)]
    return combine(trimmed, equal, elect=True, normalize=False)


def masks(deltas: Sequence[Tensor], vector: Tensor, threshold: np.ndarray) -> list[Tensor]:
    """Where an entry of the multi-task vector is a task's own: |d_i| > threshold_i |vector - d_i|; bool."""
    return [delta.abs() > (vector - delta).abs() * float(least) for delta, least in zip(deltas, threshold, strict=True)]
