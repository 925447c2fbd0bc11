"""Consensus merging: keep the entries that matter to several tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mergery.errors import RecipeError
from mergery.method import Auto, Deltas, Fraction, Largest, PerModel, Tensor, each, method
from mergery.methods._multitask import by_ties, check_thresholds, masks, together


def check(settings: Mapping[str, Any]) -> None:
    check_thresholds(settings)
    if settings["k"] < 0:
        raise RecipeError(f"k is {settings['k']}", why="it counts tasks", hint="k: 2")


def usual(settings: Mapping[str, Any]) -> float:
    """The scale at which the sum of k unrelated task vectors is as long as one."""
    return len(settings["threshold"]) ** -0.5


@method(paper="2405.07813", check=check, usual=usual)
def consensus(
    deltas: Deltas,
    cut: Annotated[list[float] | None, Largest("density", when=by_ties)],
    *,
    vector: Literal["sum", "ties"] = "sum",
    threshold: PerModel[float] = each(0.4),
    k: int = 2,
    density: PerModel[Fraction] = each(0.2),
    scope: Literal["tensor", "model"] = "model",
    scale: Auto = "auto",
) -> Tensor:
    """Add the task vectors, but only where the sum matters to at least k of the tasks.

        sum    v = sum_i d_i,  d_i = x_i - base
        ties   v = the sum of those entries of the trimmed d_i that have the elected sign
        m_i = 1 where |d_i| > threshold_i |v - d_i|, else 0
        out = base + scale * v where sum_i m_i >= k, else base

    With k = 1 only entries that matter to no task are left out (catastrophic ones), with k = 2 also those of a
    single task (selfish ones). k = 0 is task arithmetic or TIES with sums; k above the number of models gives the base.

    Settings:
        vector: the multi-task vector: `sum` (Consensus TA) or `ties` (Consensus TIES).
        threshold: the paper's lambda_t, chosen for each task between 0.2 and 0.6 by validation. Not negative; the
            higher, the fewer entries count as a task's own.
        k: how many tasks an entry must matter to; 2 in the paper.
        density: with `vector: ties`, the fraction of each task vector that is kept, in [0, 1].
        scope: with `vector: ties`, whether the fraction is of each tensor or of the whole model.
        scale: the paper's alpha, tuned by validation; about 0.3 for eight tasks. `auto` is 1 / sqrt(k).

    Source: Wang et al. 2024, Localizing task information (arXiv 2405.07813). With `vector: ties` the authors' code keeps
    one entry more than floor(density n).

    Use it for many tasks (the paper has 8 to 20): the more are summed, the more entries serve a single one and
    disturb the others. For two models k = 2 keeps only what both want.
    """
    assert not isinstance(scale, str)  # settled
    merged = together(deltas, cut)
    votes = sum(mask.float() for mask in masks(deltas, merged, threshold))
    return merged * (votes >= float(k)) * scale
