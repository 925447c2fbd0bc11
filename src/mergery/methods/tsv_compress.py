"""TSV-Compress: each task's leading singular triplets, served by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mergery.method import Deltas, MergedDelta, PackedPart, Packing, PerModel, Task, Tensor, each, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._multitask import check_task
from mergery.methods._routes import by_svd
from mergery.methods.tsv_merge import share


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return by_svd(k, out, into, 1, what="1 thin SVD")


def parts(shape: tuple[int, ...], settings: Mapping[str, Any]) -> dict[str, PackedPart]:
    kept = share(min(shape), len(settings["scale"]))
    return {"left": PackedPart("rows", width=kept), "right": PackedPart("matrix", shape=(kept, shape[1]))}


def pack(deltas: Deltas, *, scale: Sequence[float]) -> dict[str, Any]:
    """Each task's factors: its leading left vectors times singular values, and right vectors."""
    from mergery.kernels.spectral import svd

    triplets = [svd(delta, share(min(delta.shape), len(deltas))) for delta in deltas]
    left = [u * (s * float(factor)) for (u, s, _), factor in zip(triplets, scale, strict=True)]
    return {"left": left, "right": [vh for _, _, vh in triplets]}


def unpack(parts: Mapping[str, Any]) -> Tensor:
    return parts["left"] @ parts["right"]


@method(
    paper="2412.00081",
    unit="matrix",
    symmetric=False,
    check=check_task,
    packing=Packing(parts, pack, unpack, by_row=True),
    roles=LINEAR,
    rest="base",
    routing=routing,
)
def tsv_compress(deltas: Deltas, *, task: Task | None = None, scale: PerModel[float] = each(1.0)) -> MergedDelta:
    """Serve one task from the leading singular triplets of its task vector.

        x_t - base = U S V^T;   out = base + scale_t U_r S_r V_r^T   with r = floor(min(out, in) / k), at least 1

    All k tasks together then take about the space of one or two dense task vectors. `mergery pack` keeps the base and
    each task's two factors, from which any of the tasks is served; packed models are sources of recipes.

    Settings:
        task: the model whose task is served; `mergery pack` needs none.
        scale: factor of each task's vector.

    Source: Gargiulo et al. 2025, Task singular vectors (arXiv 2412.00081). What is no matrix of attention, MLP or
    expert stays as in the base.

    Use it to serve many fine-tunes of one base by task, where their task vectors are nearly of low rank.
    """
    from mergery.kernels.spectral import framed, svd

    assert task is not None
    cores, frame = framed([deltas[task]])
    u, s, vh = svd(cores[0], share(frame.smaller, len(deltas)))
    return frame.lift(u * (s * float(scale[task])).unsqueeze(-2), vh)
