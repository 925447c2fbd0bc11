"""What a method means: its value for whole tensors, in the plainest way.

Every ask is answered at once for the whole tensor, every result is one expression. Calling a method does this; the engine,
which works in windows and streams, gives the same up to the rounding of sums.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from mergery.errors import DataError, RecipeError
from mergery.kernels import random as keyed
from mergery.kernels.random import KeyedUniform
from mergery.method.asks import Given, Statistic, Sum
from mergery.method.declaration import Declaration

if TYPE_CHECKING:
    from torch import Tensor


class Evaluation:
    """One method for some models' tensors of one shape. Raises RecipeError where they do not fit."""

    def __init__(
        self,
        method: Declaration,
        models: Sequence[Tensor],
        base: Tensor | None,
        seed: int,
        settings: Mapping[str, Any],
        statistics: Mapping[str, Sequence[Tensor]] | None = None,
    ) -> None:
        self.method, self.settings = method, method.resolve(len(models), settings)
        method.refuse(models, base, statistics)
        self.data = {
            ask: [finite(own, f"the {ask.kind}") for own in (statistics or {})[ask.kind]] for ask in method.statistics
        }
        self.keys = stream_keys(seed, len(models))
        self.like, self.base = models[0], None
        if base is not None and method.base != "unused":
            self.like, self.base = base, finite(base, "the base")
        self.vectors = self.stored = [finite(model, f"model '{index}'") for index, model in enumerate(models)]
        self.dtypes = [str(model.dtype).removeprefix("torch.") for model in models]
        if self.base is not None and method.span != "models":
            self.vectors = [model - self.base for model in self.vectors]
        self.dtype, self.shape = models[0].dtype, tuple(models[0].shape)
        self.known: dict[str, Any] = dict(self.settings)

    def result(self) -> Tensor:
        """The merged tensor. Raises DataError where it is not finite in its dtype."""
        if not self.like.numel():
            return self.like.detach().clone()
        for name, ask in self.method.asks:
            if isinstance(ask, Statistic):
                self.known[name] = self.statistic(ask) if ask.needed(self.settings) else None
        how = {"tensor": self.mapped, "coefficients": self.mixed, "consensus": self.agreed}
        merged = how[self.method.gives]().reshape(self.shape).to(self.dtype)
        if not is_finite(merged):
            raise DataError(
                f"{self.method.name} gives NaN or infinity in {str(self.dtype).removeprefix('torch.')}",
                why="the inputs are finite, so the settings or the dtype's range are at fault",
                hint="lower weight or scale",
            )
        return merged

    def statistic(self, ask: Statistic) -> float | list[float]:
        """What an ask is of the whole tensor: one number, or several; those of a rank are of one model each."""
        values = self.vectors if ask.of is None else self.call(ask.of)
        if not isinstance(values, (list, tuple)):
            return ask.measure(values, self.known)
        if isinstance(ask, Sum):
            return [ask.measure(value, self.known) for value in values]
        return [ask.measure(value, self.own(model)) for model, value in enumerate(values)]

    def own(self, model: int) -> dict[str, Any]:
        """What is known to one model: its own values of the per-model settings."""
        per_model = [name for name, setting in self.method.settings.items() if setting.per_model]
        return {**self.known, **{name: self.known[name][model] for name in per_model}}

    def added(self, change: Tensor) -> Tensor:
        """The base and a change of it, which has its elements; without a base, the change itself."""
        return change if self.base is None else self.base.reshape(change.shape) + change

    # --- methods on tensors -------------------------------------------------------------------------------------------

    def mapped(self) -> Tensor:
        """The result of a method that returns a tensor."""
        merged = self.call(self.method.function)
        return self.added(merged) if self.method.takes == "deltas" else merged

    def call(self, function: Callable[..., Any], cut: Any = ...) -> Any:
        """Call a function with what its parameters name; `cut` is the part of the tensor, as the method sees it."""
        views = [self.view(vector)[cut] for vector in self.vectors]
        whole = self.view(self.vectors[0])
        random = KeyedUniform(self.keys, whole.shape, place=whole.device, view=lambda stream: stream[cut])
        base = None if self.base is None else self.view(self.base)[cut]
        known = {
            ask.kind: [self.view(own)[cut] for own in each] if ask.aligned else each for ask, each in self.data.items()
        }
        stored = [self.view(model)[cut] for model in self.stored]
        given = Given(self.shape, base, random, stored, self.dtypes, known)
        taken = {name: ask.take(given) for name, ask in self.method.asks if not ask.streamed}
        return call_by_name(
            function, {**self.known, **taken, "models": views, "deltas": views, self.method.first: views}
        )

    def view(self, tensor: Tensor) -> Tensor:
        """A tensor as the method's unit wants it: flat, a matrix of rows, matrices, or as it is."""
        if self.method.unit == "element":
            return tensor.reshape(-1)
        if self.method.unit == "row" or (self.method.unit == "matrix" and tensor.ndim > 3):
            return as_rows(tensor)
        return tensor

    # --- methods that return coefficients, or a consensus -------------------------------------------------------------

    def mixed(self) -> Tensor:
        """The vectors (the whole tensor, its rows or its columns), each times its coefficient, added up."""
        import torch

        scope = self.method.vectors(self.settings, len(self.shape))
        split = [as_vectors(vector, scope) for vector in self.vectors]  # (vectors, length) each
        first: Any = len(split)
        if self.method.takes == "gram":
            wide = torch.stack(split).double()
            first = torch.einsum("isn,jsn->sij", wide, wide).cpu().numpy()
            first = first[0] if scope == "tensor" else first
        shares = torch.from_numpy(self.method.function(first, **self.known).astype("float32")).to(split[0].device)
        shares = shares.reshape(-1, len(split), 1)
        merged = reduce(torch.add, [shares[:, model] * vectors for model, vectors in enumerate(split)])
        return self.added((merged.T if scope == "column" else merged).reshape(self.shape))

    def agreed(self) -> Tensor:
        """The base and what a consensus makes of the deltas."""
        from mergery.kernels import readable

        consensus = self.method.function(len(self.vectors), **self.known)
        rule, flat = consensus.rule(), [vector.reshape(-1) for vector in self.vectors]
        if consensus.preserve_l1:
            for model, delta in enumerate(flat):
                thinning = (rule.least[model], rule.most[model], self.keys[model], rule.probability[model])
                kept = readable.kept_of(delta, *thinning, 0, rule.random)
                before, after = (float(part.abs().double().sum()) for part in (delta, delta[kept]))
                rule.gain[model] *= before / after if after > 0.0 else 1.0
        return self.added(readable.agreed(flat, flat[0], 0, self.keys, *rule))


def evaluate_factored(
    method: Declaration, deltas: Sequence[Any], base: Tensor | None, seed: int, settings: Mapping[str, Any]
) -> Any:
    """The same for task vectors that are low-rank factors, at the cost of their rank.

    Without a base the result is the merged task vector, factored where the method allows; else a tensor of the base's dtype.
    """
    from mergery.kernels.spectral import Factored

    resolved = method.resolve(len(deltas), settings)
    if method.unit != "matrix":
        able = "methods on matrices take them: see `mergery methods`"
        raise RecipeError(f"{method.name} takes no low-rank factors", why="it works on entries", hint=able)
    if method.takes != "deltas":
        raise RecipeError(
            f"{method.name} takes no low-rank factors",
            why="it works on models, not on task vectors",
            hint="give tensors",
        )
    if not all(isinstance(delta, Factored) for delta in deltas):
        raise RecipeError("some task vectors are factors and some are not", hint="give all of them as Factored")
    if base is None and any(ask.rows for _, ask in method.asks):
        raise RecipeError(f"{method.name} needs a base", why="it turns the base's own weights", hint="base=<a tensor>")
    shape = deltas[0].shape
    method.refuse(deltas, deltas[0] if base is None else base)
    random, exact = KeyedUniform(stream_keys(seed, len(deltas)), shape), ["float32"] * len(deltas)
    given = Given(shape, None if base is None else base.float(), random, [delta.left for delta in deltas], exact)
    taken = {name: ask.take(given) for name, ask in method.asks if not ask.streamed}
    merged = method.function(list(deltas), **taken, **resolved)
    if base is None:
        return merged if isinstance(merged, Factored) else merged.float()
    return (base.float() + (merged.dense() if isinstance(merged, Factored) else merged)).to(base.dtype)


def as_tensors(
    method: Declaration, models: Any, base: Any
) -> tuple[list[Tensor], Tensor | None, Callable[[Tensor], Any]]:
    """Models and base as tensors, and what makes of a merged tensor what the caller gave: an array where all are arrays.

    Raises RecipeError for what is neither tensors nor arrays, or holds no floating point numbers.
    """
    import numpy as np
    import torch

    call = f"{method.name}([a, b]{', base=base' if method.base == 'required' else ''})"
    if isinstance(models, Mapping) or (
        not isinstance(models, (str, bytes)) and any(isinstance(m, Mapping) for m in models)
    ):
        whole = f"mergery.merge(models={{'a': a, 'b': b}}, method={method.name!r})"
        raise RecipeError(
            f"{method.name} merges single tensors, and these are state dicts", hint=f"whole models: {whole}"
        )
    if isinstance(models, (torch.Tensor, np.ndarray, str)):
        what = (
            "a tensor" if isinstance(models, torch.Tensor) else "an array" if isinstance(models, np.ndarray) else "text"
        )
        raise RecipeError(f"{method.name} takes its models in a list, not {what}", hint=call)
    if not len(models):
        raise RecipeError(f"{method.name} is given no models", hint=call)
    given = [*models, *([base] if base is not None else [])]
    names = [*(f"model {index}" for index in range(len(given) - (base is not None))), "the base"]
    for name, value in zip(names, given, strict=False):
        if not isinstance(value, (torch.Tensor, np.ndarray)):
            hint = f"{call}; a model by its folder or its module: mergery.merge"
            raise RecipeError(f"{name} is a {type(value).__name__}, not a tensor", hint=hint)
    tensors: list[Any] = []
    for name, value in zip(names, given, strict=False):
        try:
            tensors.append(value if isinstance(value, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(value)))
        except TypeError:
            raise RecipeError(
                f"{name} is an array of {value.dtype}", hint="an array of floating point numbers"
            ) from None
    for name, tensor in zip(names, tensors, strict=False):
        if not tensor.is_floating_point():
            raise RecipeError(
                f"{name} is of {str(tensor.dtype).removeprefix('torch.')}",
                why="only floating point numbers are merged",
                hint="give it as float32; a merge of whole models copies integers, and says so",
            )
    arrays = bool(given) and all(isinstance(value, np.ndarray) for value in given)
    origin = tensors.pop() if base is not None else None
    return tensors, origin, (lambda merged: merged.numpy()) if arrays else (lambda merged: merged)


def stream_keys(seed: int, k: int) -> list[int]:
    """The keys of k models' randomness, for a tensor that has no name."""
    return [keyed.key(seed, "tensor", str(index)) for index in range(k)]


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity, which its least and its largest entry tell."""
    tensor = tensor.float() if tensor.element_size() == 1 else tensor  # of which torch knows no least
    return not tensor.numel() or all(bool(each.isfinite()) for each in tensor.aminmax())


def finite(tensor: Tensor, what: str) -> Tensor:
    """A tensor in float32. Raises DataError where it is not finite."""
    values = tensor.detach().float()
    if not is_finite(values):
        raise DataError(f"{what} holds NaN or infinity", hint="use tensors of finite numbers")
    return values


def as_rows(tensor: Tensor) -> Tensor:
    """A tensor as a matrix whose rows are output neurons; a vector or a single number is one row."""
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    return tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def as_vectors(tensor: Tensor, scope: str) -> Tensor:
    """A tensor as the vectors that coefficients are found for (vectors, length)."""
    if scope == "tensor":
        return tensor.reshape(1, -1)
    return as_rows(tensor) if scope == "row" else as_rows(tensor).T


def call_by_name(function: Callable[..., Any], known: Mapping[str, Any]) -> Any:
    """Call a function with the known values of its parameters' names."""
    parameters = inspect.signature(function).parameters.values()
    positional = [known[own.name] for own in parameters if own.kind is not inspect.Parameter.KEYWORD_ONLY]
    named = {own.name: known[own.name] for own in parameters if own.kind is inspect.Parameter.KEYWORD_ONLY}
    return function(*positional, **named)
