"""EMR: elect one task vector, mask it and rescale it for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from mergery.method import Deltas, PackedPart, Packing, Sum, Task, Tensor, method, serve
from mergery.methods._multitask import check_task


def elect(deltas: Deltas) -> Tensor:
    """Of each entry the largest change that has the sign of the sum; a sum of zero counts as negative."""
    total, highest, lowest = deltas[0], deltas[0].clamp(min=0.0), deltas[0].clamp(max=0.0)
    for delta in deltas[1:]:
        total, highest, lowest = total + delta, highest.maximum(delta), lowest.minimum(delta)
    return highest.where(total > 0.0, lowest)


def agreeing(deltas: Deltas, unified: Tensor) -> list[Tensor]:
    """Where a task vector has the elected sign; bool."""
    up, down = unified > 0.0, unified < 0.0
    return [((delta > 0.0) & up) | ((delta < 0.0) & down) for delta in deltas]


def sizes(deltas: Deltas) -> list[Tensor]:
    """|d_i| of each task vector, and then what its mask leaves of the elected one."""
    unified = elect(deltas)
    left = [unified.abs() * mask for mask in agreeing(deltas, unified)]
    return [*(delta.abs() for delta in deltas), *left]


def parts(shape: tuple[int, ...], settings: Mapping[str, Any]) -> dict[str, PackedPart]:
    return {"vector": PackedPart("values", each=False), "mask": PackedPart("bits"), "scale": PackedPart("number")}


def pack(deltas: Deltas, l1_norms: Sequence[float]) -> dict[str, Any]:
    """The elected task vector, and each task's mask and factor."""
    unified = elect(deltas)
    k = len(deltas)
    factors = [l1_norms[i] / l1_norms[k + i] if l1_norms[k + i] > 0.0 else 1.0 for i in range(k)]
    return {"vector": unified, "mask": agreeing(deltas, unified), "scale": factors}


def unpack(parts: Mapping[str, Any]) -> Tensor:
    return parts["vector"] * parts["mask"] * parts["scale"]


@method(paper="2405.17461", symmetric=False, check=check_task, packing=Packing(parts, pack, unpack))
def emr(
    deltas: Deltas,
    l1_norms: Annotated[list[float], Sum(sizes)],
    *,
    task: Task | None = None,
    scope: Literal["model", "tensor"] = "model",
) -> Tensor:
    """Serve one task from an elected task vector: where signs agree, times a factor that restores the length.

        elect     s = sign(sum_i d_i);  v = s max |d_i| over the models with sign(d_i) = s
        mask      m_t = 1 where sign(d_t) = s, else 0
        rescale   l_t = sum |d_t| / sum |m_t v|;   out = base + l_t m_t v   for the task t

    The factor restores the task vector's sum of magnitudes. A sum of zero counts as negative, as in the
    authors' code. `mergery pack` keeps base, v, all masks (one bit for each parameter and task) and factors, from which
    any of the tasks is served; packed models are sources of recipes.

    Settings:
        task: the model whose task is served; `mergery pack` needs none.
        scope: l_t is one factor for the whole model (the paper), or one for each tensor.

    Source: Huang et al. 2024, EMR-Merging (arXiv 2405.17461). The factors are the paper's; the authors' code takes for each
    the ratio of two sums of tensors' mean magnitudes, in which a small tensor counts as much as a large one.

    Use it to serve many fine-tunes of one base by task without tuning anything, in little more space than two
    models.
    """
    return serve(pack(deltas, l1_norms), task, unpack)
