"""Merging plain tensors to the bytes of a merge: what the engine makes of one tensor of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.checkpoints import open_checkpoint
from mergery.engine.merging import Merging
from mergery.engine.workspace import Shared, Workspace
from mergery.graph.nodes import Measured, Merged, Stored, read_matrices
from mergery.kernels.threads import quiet_torch
from mergery.method import Method, find
from mergery.method.evaluating import as_tensors

if TYPE_CHECKING:
    from torch import Tensor


def merge_tensors(
    method: Method | str,
    models: Sequence[Tensor],
    base: Tensor | None = None,
    *,
    seed: int = 0,
    statistics: Mapping[str, Sequence[Tensor]] | None = None,
    **settings: Any,
) -> Tensor:
    """Merge plain tensors, or numpy arrays, of one shape, byte for byte as one tensor of a checkpoint would be merged.

    `method` is one of `mergery.methods`, or its name. For its arguments and errors see `Method.__call__`. The one tensor is the
    whole model, where a statistic is of that. Numbers of eight bits are decoded, as those of files are: they give float32.
    """
    import torch

    method = find(method) if isinstance(method, str) else method
    models, base, give = as_tensors(method, models, base)
    resolved = method.resolve(len(models), settings)
    method.refuse(models, base, statistics)
    given = [
        each.float() if each.element_size() == 1 else each for each in (*models, *([] if base is None else [base]))
    ]
    leaves = [_stored(str(index), tensor) for index, tensor in enumerate(given)]
    measured = [
        Measured(
            ask.kind,
            tuple(_stored(f"statistics of {index}", own) for index, own in enumerate((statistics or {})[ask.kind])),
            (1.0,) * len(models),
            ask.aligned,
        )
        for ask in method.statistics
    ]
    names = tuple(str(index) for index in range(len(models)))
    origin = leaves[-1] if base is not None and method.base != "unused" else None
    dtype, shape = leaves[0].dtype, leaves[0].shape
    matrices = read_matrices(shape) if method.unit == "matrix" else None
    node = Merged(
        method, "tensor", names, tuple(leaves[: len(models)]), origin, resolved, dtype, 0, matrices, tuple(measured)
    )
    if not node.elements:
        return give(given[0 if origin is None else -1].clone())
    out = np.empty(node.elements * dtype.itemsize, dtype=np.uint8)
    merging = Merging(node, Shared(seed, alone=True), Workspace())
    with quiet_torch(load=False):
        for start, stop in merging.outputs():
            merging.compute(start, stop, out[start * dtype.itemsize : stop * dtype.itemsize], dtype)
    return give(torch.from_numpy(out).view(getattr(torch, dtype.torch)).reshape(shape))


def _stored(model: str, tensor: Tensor) -> Stored:
    """A tensor in memory as a checkpoint's."""
    checkpoint = open_checkpoint({"tensor": tensor.detach()}, label=model)
    return Stored(model, checkpoint, checkpoint.tensors["tensor"])
