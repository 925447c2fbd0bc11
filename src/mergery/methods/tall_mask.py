"""TALL-masks: one multi-task vector, and a mask for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mergery.method import Deltas, Fraction, Largest, PackedPart, Packing, PerModel, Task, Tensor, each, method, serve
from mergery.methods._multitask import by_ties, check_task, check_thresholds, masks, together

if TYPE_CHECKING:
    import numpy as np


def check(settings: Mapping[str, Any]) -> None:
    check_thresholds(settings)
    check_task(settings)


def parts(shape: tuple[int, ...], settings: Mapping[str, Any]) -> dict[str, PackedPart]:
    return {"vector": PackedPart("values", each=False), "mask": PackedPart("bits")}


def pack(deltas: Deltas, cut: Sequence[float] | None, threshold: np.ndarray) -> dict[str, Any]:
    """The multi-task vector and where its entries are each task's own."""
    merged = together(deltas, cut)
    return {"vector": merged, "mask": masks(deltas, merged, threshold)}


def unpack(parts: Mapping[str, Any]) -> Tensor:
    return parts["vector"] * parts["mask"]


@method(paper="2405.07813", symmetric=False, check=check, packing=Packing(parts, pack, unpack))
def tall_mask(
    deltas: Deltas,
    cut: Annotated[list[float] | None, Largest("density", when=by_ties)],
    *,
    task: Task | None = None,
    vector: Literal["sum", "ties"] = "sum",
    threshold: PerModel[float] = each(0.4),
    density: PerModel[Fraction] = each(0.2),
    scope: Literal["tensor", "model"] = "model",
) -> Tensor:
    """Serve one task from the sum of all task vectors: the entries of the sum that are the task's own.

        v = sum_i d_i, or by TIES with sums;  d_i = x_i - base
        m_t = 1 where |d_t| > threshold_t |v - d_t|, else 0;   out = base + m_t v   for the task t

    `mergery pack` keeps base, v and all masks, one bit for each parameter and task, from which any of the tasks is
    served; packed models are sources of recipes.

    Settings:
        task: the model whose task is served; `mergery pack` needs none.
        vector: the multi-task vector: `sum`, or `ties` as in `consensus`.
        threshold: the paper's lambda_t, chosen for each task between 0.2 and 0.6 by validation; not negative.
        density: with `vector: ties`, the fraction of each task vector that is kept, in [0, 1].
        scope: with `vector: ties`, whether the fraction is of each tensor or of the whole model.

    Source: Wang et al. 2024, Localizing task information (arXiv 2405.07813).

    Use it to serve many fine-tunes of one base by task, in little more space than two models: the paper keeps 99 % of
    their accuracy.
    """
    return serve(pack(deltas, cut, threshold), task, unpack)
