"""Merging plain tensors, exactly as the engine merges one tensor of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.checkpoints import open_checkpoint
from weft.engine import Context, Loom, Shuttle
from weft.errors import RecipeError, did_you_mean
from weft.graph import Leaf, Weave
from weft.method import Method
from weft.settings import locate, pack

if TYPE_CHECKING:
    from torch import Tensor


def merge_tensors(
    method: Method, models: Sequence[Tensor], base: Tensor | None, *, seed: int, settings: Mapping[str, Any]
) -> Tensor:
    """See `Method.__call__`. The one tensor is the whole model, where a statistic is of that."""
    import torch

    models = list(models)
    resolved = resolve_settings(method, len(models), settings)
    least, most = method.models
    if not least <= len(models) <= (most or len(models)):
        raise RecipeError(
            f"{method.name} merges {least if least == most else f'at least {least}'} models, not {len(models)}"
        )
    if method.base == "required" and base is None:
        raise RecipeError(f"{method.name} needs a base")
    given = [*models, *([base] if base is not None else [])]
    if any(tensor.shape != given[0].shape for tensor in given):
        raise RecipeError("the tensors differ in shape", why=", ".join(str(tuple(t.shape)) for t in given))
    leaves = []
    for index, tensor in enumerate(given):
        checkpoint = open_checkpoint({"tensor": tensor.detach()}, label=str(index))
        leaves.append(Leaf(str(index), checkpoint, checkpoint.tensors["tensor"]))
    uses_base = base is not None and method.base != "unused"
    inputs = tuple(leaves[: len(models)])
    names = tuple(str(index) for index in range(len(models)))
    weave = Weave(method, "tensor", names, inputs, leaves[-1] if uses_base else None, resolved, inputs[0].dtype, 0)
    if not weave.elements or not weave.inputs[0].dtype.floating:
        return given[-1 if uses_base else 0].clone()
    dtype = leaves[0].dtype
    out = np.empty(weave.elements * dtype.itemsize, dtype=np.uint8)
    shuttle = Shuttle(weave, Context(seed, alone=True), Loom())
    for start, stop in shuttle.outputs():
        shuttle.compute(start, stop, out[start * dtype.itemsize : stop * dtype.itemsize], dtype)
    return torch.from_numpy(out).view(getattr(torch, dtype.torch)).reshape(given[0].shape)


def resolve_settings(method: Method, k: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings given in Python and fill in the defaults."""
    for name in given:
        if name not in method.settings:
            raise RecipeError(f"{method.name} has no setting {name!r}", hint=did_you_mean(name, method.settings))
    resolved: dict[str, Any] = {}
    for setting in method.settings.values():
        value = given.get(setting.name, setting.default)
        if value is setting.default and setting.required:
            raise RecipeError(f"{method.name} needs {setting.name!r}", why=setting.describe())
        listed = setting.per_model and isinstance(value, (list, tuple, np.ndarray))
        each = list(value) if listed else [value] * (k if setting.per_model else 1)
        if listed and len(each) != k:
            raise RecipeError(f"{setting.name} has {len(each)} values for {k} models")
        plain = [item.item() if isinstance(item, np.generic) else item for item in each]
        names = tuple(str(index) for index in range(k))
        resolved[setting.name] = pack(setting, [locate(setting, setting.check(item), names) for item in plain])
    if method.check is not None:
        method.check(resolved)
    return resolved
