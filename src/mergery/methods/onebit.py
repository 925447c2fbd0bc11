"""One bit for each parameter of a task vector: its sign, and one magnitude for many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from mergery.method import Deltas, PackedPart, Packing, PerModel, Shape, Sum, Task, Tensor, each, method, serve
from mergery.methods._thinning import combine, magnitudes


def sizes(deltas: Deltas) -> list[Tensor]:
    return magnitudes(deltas)


def by_tensor(settings: Mapping[str, Any]) -> bool:
    return settings["scope"] == "tensor" and settings["binary"]


def binarised(shape: tuple[int, ...], settings: Mapping[str, Any]) -> bool:
    return settings["binary"] and len(shape) > 1


def parts(shape: tuple[int, ...], settings: Mapping[str, Any]) -> dict[str, PackedPart]:
    if not binarised(shape, settings):
        return {"values": PackedPart("values")}
    return {
        "sign": PackedPart("bits"),
        **({"size": PackedPart("number")} if settings["scope"] == "tensor" else {"sizes": PackedPart("rows")}),
    }


def pack(
    deltas: Deltas, l1_norms: Sequence[float] | None, shape: tuple[int, ...], *, binary: bool, scope: str
) -> dict[str, Any]:
    """Signs (bool, true for plus) and magnitudes of each task vector, or the vectors themselves."""
    if not binarised(shape, {"binary": binary}):
        return {"values": list(deltas)}
    signs = [delta >= 0.0 for delta in deltas]
    if l1_norms is None:
        return {"sign": signs, "sizes": [delta.abs().double().mean(-1, keepdim=True).float() for delta in deltas]}
    return {"sign": signs, "size": [mass / math.prod(shape) for mass in l1_norms]}


def unpack(parts: Mapping[str, Any]) -> Tensor:
    if "values" in parts:
        return parts["values"]
    return (parts["sign"] * 2.0 - 1.0) * parts["size" if "size" in parts else "sizes"]


@method(paper="2502.10743", unit="row", packing=Packing(parts, pack, unpack, by_row=True))
def onebit(
    deltas: Deltas,
    l1_norms: Annotated[list[float] | None, Sum(sizes, when=by_tensor)],
    shape: Annotated[tuple[int, ...], Shape()],
    *,
    task: Task | None = None,
    weight: PerModel[float] = each(1.0),
    binary: bool = True,
    scope: Literal["tensor", "row"] = "tensor",
    scale: float = 1.0,
) -> Tensor:
    """Replace each matrix of a task vector by its signs times the mean magnitude, and add.

        q_i = a_i sign(d_i),  d_i = x_i - base,  a_i = mean |d_i|;   out = base + scale * sum_i w_i q_i

    No other number in place of a_i is nearer to d_i. An entry of zero counts as positive. Vectors (norms, biases) stay
    as they are, and so do tensors where `binary` is false. With `task` the result is base + q_t,
    whatever weights and scale.

    `mergery pack` keeps base, signs (one bit for each parameter and task) and magnitudes, from which any of the tasks
    is served; packed models are sources of recipes. Other methods merge binarised models as stages.

    Settings:
        task: the model whose task is served; without it, all are added.
        weight: factor of each task vector.
        binary: whether a tensor is reduced to signs. The paper's choices as filters: `attention` is
            [{where: {role: attention}, value: true}, {value: false}], and so for `mlp`; all linear layers are
            [{where: {role: [embed, head, norm, router]}, value: false}, {value: true}].
        scope: one magnitude for each tensor, or for each row (an output neuron's weights), which is nearer.
        scale: factor of the sum.

    Source: Liu et al. 2025, 1bit-Merging (arXiv 2502.10743); the reconstruction is that of Liu et al. 2024, BitDelta
    (arXiv 2402.10193). The paper routes each query to the vector that is served; that is not part of this.

    Use it to keep many fine-tunes of one base in a sixteenth of their space each. It suits task vectors whose
    magnitudes vary little; a few large entries are lost.
    """
    packed = pack(deltas, l1_norms, shape, binary=binary, scope=scope)
    if task is not None:
        return serve(packed, task, unpack)
    vectors = [serve(packed, index, unpack) for index in range(len(deltas))]
    return combine(vectors, weight, elect=False, normalize=False) * scale
