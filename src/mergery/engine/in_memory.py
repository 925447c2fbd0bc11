"""Merging plain tensors, exactly as the engine merges one tensor of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.checkpoints import open_checkpoint
from mergery.engine import Merging, Shared, Workspace
from mergery.errors import RecipeError, did_you_mean
from mergery.graph.nodes import Matrices, Merged, Stored, read_matrices
from mergery.kernels import random as keyed
from mergery.method import Base, Method, Random
from mergery.run.workers import quiet_torch

if TYPE_CHECKING:
    from torch import Tensor


def merge_tensors(
    method: Method, models: Sequence[Tensor], base: Tensor | None, *, seed: int, settings: Mapping[str, Any]
) -> Tensor:
    """See `Method.__call__`. The one tensor is the whole model, where a statistic is of that."""
    import torch

    models = list(models)
    resolved = resolve_settings(method, len(models), settings)
    check_count(method, len(models))
    if method.base == "required" and base is None:
        raise RecipeError(f"{method.name} needs a base")
    given = [*models, *([base] if base is not None else [])]
    if any(tensor.shape != given[0].shape for tensor in given):
        raise RecipeError("the tensors differ in shape", why=", ".join(str(tuple(t.shape)) for t in given))
    leaves = []
    for index, tensor in enumerate(given):
        checkpoint = open_checkpoint({"tensor": tensor.detach()}, label=str(index))
        leaves.append(Stored(str(index), checkpoint, checkpoint.tensors["tensor"]))
    uses_base = base is not None and method.base != "unused"
    inputs = tuple(leaves[: len(models)])
    names = tuple(str(index) for index in range(len(models)))
    matrices = check_matrix(method, tuple(given[0].shape)) if method.unit == "matrix" else None
    node = Merged(
        method, "tensor", names, inputs, leaves[-1] if uses_base else None, resolved, inputs[0].dtype, 0, matrices
    )
    if not node.elements or not node.inputs[0].dtype.floating:
        return given[-1 if uses_base else 0].clone()
    dtype = leaves[0].dtype
    out = np.empty(node.elements * dtype.itemsize, dtype=np.uint8)
    merging = Merging(node, Shared(seed, alone=True), Workspace())
    with quiet_torch(load=True) if matrices is not None else nullcontext():
        for start, stop in merging.outputs():
            merging.compute(start, stop, out[start * dtype.itemsize : stop * dtype.itemsize], dtype)
    return torch.from_numpy(out).view(getattr(torch, dtype.torch)).reshape(given[0].shape)


def merge_factored(
    method: Method, deltas: Sequence[Any], base: Tensor | None, *, seed: int, settings: Mapping[str, Any]
) -> Any:
    """See `Method.__call__`: task vectors as low-rank factors, at the cost of their rank."""
    from mergery.kernels.spectral import Factored

    resolved = resolve_settings(method, len(deltas), settings)
    check_count(method, len(deltas))
    if method.unit != "matrix":
        able = "methods on matrices take them: see `mergery methods`"
        raise RecipeError(f"{method.name} takes no low-rank factors", why="it works on entries", hint=able)
    if method.takes != "deltas":
        raise RecipeError(f"{method.name} takes no low-rank factors", why="it works on models, not on task vectors")
    if not all(isinstance(delta, Factored) for delta in deltas):
        raise RecipeError("some task vectors are factors and some are not", hint="give all of them as Factored")
    shapes = [delta.shape for delta in deltas] + ([tuple(base.shape)] if base is not None else [])
    if len(set(shapes)) > 1:
        raise RecipeError("the matrices differ in shape", why=", ".join(map(str, shapes)))
    given: dict[str, Any] = {}
    for name, ask in method.asks:
        if isinstance(ask, Base) and base is None:
            raise RecipeError(f"{method.name} needs a base", why="it turns the base's own weights")
        if isinstance(ask, Base) and base is not None:
            given[name] = base.float()
        elif isinstance(ask, Random):
            given[name] = KeyedUniform(seed, deltas[0].shape)
    with quiet_torch(load=True):
        result = method.function(list(deltas), **given, **resolved)
        if base is None:
            return result if isinstance(result, Factored) else result.float()
        dense = result.dense() if isinstance(result, Factored) else result
        return (base.float() + dense).to(base.dtype)


class KeyedUniform:
    """Keyed randomness for a matrix that is given as factors."""

    def __init__(self, seed: int, shape: tuple[int, int]) -> None:
        self.seed, self.shape = seed, shape

    def uniform(self, model: int) -> Tensor:
        """float32 in [0, 1), as `mergery.engine.calling.Draw` gives them for the same matrix stored whole."""
        rows, columns = self.shape
        key = keyed.key(self.seed, "tensor", str(model))
        return keyed.uniform(key, 0, rows * columns).reshape(self.shape)


def check_count(method: Method, k: int) -> None:
    least, most = method.models
    if not least <= k <= (most or k):
        raise RecipeError(f"{method.name} merges {least if least == most else f'at least {least}'} models, not {k}")


def check_matrix(method: Method, shape: tuple[int, ...]) -> Matrices:
    """How a tensor is read as matrices. Raises RecipeError for a vector."""
    matrices = read_matrices(shape)
    if matrices is None:
        raise RecipeError(
            f"{method.name} merges matrices [out, in], not a tensor of shape {list(shape)}",
            hint="merge vectors with linear or task_arithmetic",
        )
    return matrices


def resolve_settings(method: Method, k: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings given in Python and fill in the defaults."""
    for name in given:
        if name not in method.settings:
            raise RecipeError(f"{method.name} has no setting {name!r}", hint=did_you_mean(name, method.settings))
    resolved: dict[str, Any] = {}
    for setting in method.settings.values():
        value = given.get(setting.name, setting.default)
        if value is setting.default and setting.required:
            raise RecipeError(f"{method.name} needs {setting.name!r}", why=setting.type_in_words())
        listed = setting.per_model and isinstance(value, (list, tuple, np.ndarray))
        each = list(value) if listed else [value] * (k if setting.per_model else 1)
        if listed and len(each) != k:
            raise RecipeError(f"{setting.name} has {len(each)} values for {k} models")
        plain = [item.item() if isinstance(item, np.generic) else item for item in each]
        names = tuple(str(index) for index in range(k))
        resolved[setting.name] = setting.received([setting.check(item) for item in plain], names)
    if method.check is not None:
        method.check(resolved)
    return resolved
