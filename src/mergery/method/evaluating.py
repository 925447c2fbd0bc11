"""The reference evaluator: a method on whole tensors, in the plainest way.

It says what a method means: every ask is computed at once on the whole tensor, every result is one expression. The
engine, which works in chunks and streams, is tested against it.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergery.errors import RecipeError, did_you_mean
from mergery.kernels import random as keyed
from mergery.method import Base, Consensus, Largest, Method, Random, Shape, Sum

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class WholeTensors:
    """Evaluates methods as `Method.__call__` does: `evaluate(method, models, base, seed=0, **settings)`.

    pieces: call a method that returns a tensor, and the functions of its asks, on so many pieces of whole units, and
            join the results. A method that declares its unit rightly gives the same bytes for any number.
    tensor: the tensor's name and `names` the models' (their indices by default), which key the randomness.
    """

    pieces: int = 1
    tensor: str = "tensor"
    names: tuple[str, ...] | None = None

    def __call__(
        self,
        method: Method,
        models: Sequence[Tensor],
        base: Tensor | None = None,
        *,
        seed: int = 0,
        **settings: Any,
    ) -> Tensor:
        names = self.names or tuple(str(index) for index in range(len(models)))
        given = resolve(method, len(models), settings)
        refuse(method, models, base)
        keys = [keyed.key(seed, self.tensor, name) for name in names]
        return Evaluation(method, models, base, given, keys, self.pieces).result()


run_whole = WholeTensors()
"""`run_whole(method, models, base=None, seed=0, **settings)`: one tensor, at once."""


def resolve(method: Method, k: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings as the method receives them. Raises RecipeError for what does not fit."""
    import numpy as np

    for name in given:
        if name not in method.settings:
            raise RecipeError(f"{method.name} has no setting {name!r}", hint=did_you_mean(name, method.settings))
    result: dict[str, Any] = {}
    for setting in method.settings.values():
        if setting.required and setting.name not in given:
            raise RecipeError(f"{method.name} needs {setting.name!r}", why=setting.type_in_words())
        value = given.get(setting.name, setting.default)
        if not setting.per_model:
            result[setting.name] = setting.check(value)
            if setting.kind == "task" and value is not None and not 0 <= value < k:
                raise RecipeError(f"{setting.name} is {value}, but there are {k} models")
            continue
        each = list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] * k
        if len(each) != k:
            raise RecipeError(f"{setting.name} has {len(each)} values for {k} models")
        checked = [setting.check(float(item) if isinstance(item, np.floating) else item) for item in each]
        result[setting.name] = np.array(checked, dtype=np.float64)
    if method.check is not None:
        method.check(result)
    return result


def refuse(method: Method, models: Sequence[Tensor], base: Tensor | None) -> None:
    """Raise RecipeError where models and base are not what the method merges."""
    least, most = method.models
    if len(models) < least or (most is not None and len(models) > most):
        raise RecipeError(f"{method.name} cannot merge {len(models)} models")
    if method.base == "required" and base is None:
        raise RecipeError(f"{method.name} needs a base")
    tensors = [*models, *([] if base is None else [base])]
    if any(tensor.shape != tensors[0].shape for tensor in tensors):
        raise RecipeError("the tensors differ in shape")
    if method.unit == "matrix" and tensors[0].ndim < 2:
        raise RecipeError(f"{method.name} merges matrices, not a tensor of shape {list(tensors[0].shape)}")


class Evaluation:
    """One call."""

    def __init__(
        self,
        method: Method,
        models: Sequence[Tensor],
        base: Tensor | None,
        settings: dict[str, Any],
        keys: Sequence[int],
        pieces: int,
    ) -> None:
        import torch

        self.method, self.settings, self.keys, self.pieces = method, settings, keys, pieces
        self.shape, self.dtype = models[0].shape, models[0].dtype
        self.models = [model.detach().to(torch.float32) for model in models]
        self.base = None if base is None or method.base == "unused" else base.detach().to(torch.float32)
        self.vectors = self.models
        if self.base is not None and method.span != "models":
            self.vectors = [model - self.base for model in self.models]
        self.known: dict[str, Any] = dict(settings)

    def result(self) -> Tensor:
        for name, ask in self.method.asks:
            if ask.when is not None and not ask.when(self.settings):
                self.known[name] = None
            elif isinstance(ask, Largest):
                self.known[name] = self.largest(ask)
            elif isinstance(ask, Sum):
                self.known[name] = self.sum(ask)
        merged = {"tensor": self.tensor, "coefficients": self.mixed, "consensus": self.agreed}[self.method.gives]()
        return merged.reshape(self.shape).to(self.dtype)

    # --- asks ---------------------------------------------------------------------------------------------------------

    def largest(self, ask: Largest) -> float | list[float]:
        values = self.vectors if ask.of is None else self.call(ask.of)
        if not isinstance(values, (list, tuple)):
            return order_statistic(values, ask, self.known)
        return [order_statistic(value.abs(), ask, self.own(model)) for model, value in enumerate(values)]

    def own(self, model: int) -> dict[str, Any]:
        """What is known to one model: its own values of the per-model settings."""
        return {
            name: value[model] if name in self.settings and self.method.settings[name].per_model else value
            for name, value in self.known.items()
        }

    def sum(self, ask: Sum) -> float | list[float]:
        assert ask.of is not None
        values = self.call(ask.of)
        if isinstance(values, (list, tuple)):
            return [float(value.double().sum()) for value in values]
        return float(values.double().sum())

    # --- methods on tensors -------------------------------------------------------------------------------------------

    def view(self, tensor: Tensor) -> Tensor:
        """A tensor as the method's unit wants it: flat, a matrix of rows, matrices, or as it is."""
        if self.method.unit == "element":
            return tensor.reshape(-1)
        if self.method.unit == "matrix":
            return as_rows(tensor) if tensor.ndim > 3 else tensor
        return as_rows(tensor) if self.method.unit == "row" else tensor

    def call(self, function: Callable[..., Any]) -> Any:
        """Call a function with what its parameters name, in pieces."""
        import torch

        first = next(iter(inspect.signature(self.method.function).parameters))
        vectors = self.models if self.method.takes == "models" else self.vectors
        views = [self.view(vector) for vector in vectors]
        base = None if self.base is None else self.view(self.base)
        results = []
        for cut in self.cuts(views[0]):
            merged = [view[cut] for view in views]
            known = {**self.known, first: merged, "models": merged, "deltas": merged}
            for name, ask in self.method.asks:
                if isinstance(ask, Shape):
                    known[name] = tuple(self.shape)
                elif isinstance(ask, Base):
                    known[name] = None if base is None else base[cut]
                elif isinstance(ask, Random):
                    known[name] = KeyedUniform(self.keys, views[0], cut)
            results.append(call_by_name(function, known))
        if len(results) == 1:
            return results[0]
        if isinstance(results[0], (list, tuple)):
            return [torch.cat(parts) for parts in zip(*results, strict=True)]
        return torch.cat(results)

    def cuts(self, view: Tensor) -> list[Any]:
        """Indices of the pieces: runs of elements or rows."""
        if self.method.unit in ("tensor", "matrix") or self.pieces == 1 or len(view) < 2:
            return [...]
        bounds = sorted({len(view) * piece // self.pieces for piece in range(self.pieces + 1)})
        return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]

    def tensor(self) -> Tensor:
        if self.method.unit == "matrix" and not self.models[0].numel():
            return self.models[0]
        merged = self.call(self.method.function)
        if self.method.takes == "deltas":
            assert self.base is not None
            merged = self.view(self.base) + merged
        return merged

    # --- coefficients -------------------------------------------------------------------------------------------------

    def mixed(self) -> Tensor:
        import torch

        scope = self.settings.get("scope", "tensor") if self.method.takes == "gram" else "tensor"
        if scope == "column" and self.vectors[0].ndim < 2:
            scope = "row"
        scope = "tensor" if scope == "model" else scope
        wide = torch.stack([spans(vector, scope) for vector in self.vectors]).double()  # (k, spans, length)
        first: Any = len(self.vectors)
        if self.method.takes == "gram":
            first = torch.einsum("isn,jsn->sij", wide, wide).numpy()
            first = first[0] if scope == "tensor" else first
        known = {name: self.known[name] for name in asked(self.method)}
        shares = torch.from_numpy(self.method.function(first, **known, **self.settings).astype("float64"))
        merged = torch.einsum("sk,ksn->sn", shares.reshape(-1, len(self.vectors)).expand(wide.shape[1], -1), wide)
        merged = merged.T if scope == "column" else merged
        base = None if self.base is None else self.base.double().reshape(merged.shape)
        return merged if base is None or self.method.span == "models" else base + merged

    # --- consensus ----------------------------------------------------------------------------------------------------

    def agreed(self) -> Tensor:
        import torch

        known = {name: self.known[name] for name in asked(self.method)}
        rule: Consensus = self.method.function(len(self.vectors), **known, **self.settings)
        weights = [float(weight) for weight in rule.weight]
        coins = KeyedUniform(self.keys, self.vectors[0])
        weighed = [thinned(delta, rule, model, coins) * weights[model] for model, delta in enumerate(self.vectors)]
        total = torch.zeros_like(self.vectors[0])
        up, down, up_share, down_share = (torch.zeros_like(total) for _ in range(4))
        for value, weight in zip(weighed, weights, strict=True):
            total = total + value
            up = up + value.clamp(min=0.0)
            down = down + value.clamp(max=0.0)
            up_share = up_share + weight * (value > 0.0)
            down_share = down_share + weight * (value < 0.0)
        stack = torch.stack(weighed)
        share = torch.full_like(total, divisor(rule.weight))
        if rule.elect:
            positive = up + down >= 0.0 if rule.zero > 0.0 else up + down > 0.0
            total = torch.where(positive, up, down)
            if rule.largest:
                total = torch.where(positive, stack.amax(0).clamp(min=0.0), stack.amin(0).clamp(max=0.0))
            share = torch.where(positive, up_share, down_share)
            share = torch.where(share == 0.0, 1.0, share)
        if rule.normalize:
            total = total / share
        assert self.base is not None
        return self.base + rule.scale * total


def asked(method: Method) -> list[str]:
    """The asks that are answered before a method is called that gives coefficients or a rule."""
    return [name for name, ask in method.asks if isinstance(ask, (Largest, Sum))]


def thinned(delta: Tensor, rule: Consensus, model: int, coins: KeyedUniform) -> Tensor:
    """A task vector after its rule's thinning and rescaling."""
    import torch

    size = delta.abs()
    keep = torch.ones_like(delta, dtype=torch.bool)
    if rule.least is not None:
        keep &= size >= float(rule.least[model])
    if rule.most is not None:
        keep &= size <= float(rule.most[model])
    if rule.probability is not None:
        keep &= coins.uniform(model) < float(rule.probability[model])
    gain = 1.0 if rule.gain is None else float(rule.gain[model])
    if rule.preserve_l1:
        before, after = float(size.double().sum()), float((size * keep).double().sum())
        gain *= before / after if after > 0.0 else 1.0
    return torch.where(keep, delta * gain, 0.0)


def divisor(weight: np.ndarray) -> float:
    """The sum of all weights; 1 where they cancel."""
    total = float(weight.sum())
    return total if abs(total) > 1e-12 * float(abs(weight).sum()) else 1.0


class KeyedUniform:
    """What a `Random` ask gives: `uniform(i)` in [0, 1) for each element of a tensor, or of one piece of it."""

    def __init__(self, keys: Sequence[int], like: Tensor, cut: Any = ...) -> None:
        self.keys, self.like, self.cut = keys, like, cut

    def uniform(self, model: int) -> Tensor:
        stream = keyed.uniform(self.keys[model], 0, self.like.numel())
        return stream.reshape(self.like.shape)[self.cut]


def as_rows(tensor: Tensor) -> Tensor:
    """A tensor as a matrix whose rows are output neurons; a vector or a single number is one row."""
    if tensor.ndim < 2:
        return tensor.reshape(1, -1)
    return tensor.reshape(tensor.shape[0], math.prod(tensor.shape[1:]))


def spans(tensor: Tensor, scope: str) -> Tensor:
    """A tensor as the vectors of a scope (spans, length)."""
    if scope == "tensor":
        return tensor.reshape(1, -1)
    return as_rows(tensor) if scope == "row" else as_rows(tensor).T


def order_statistic(values: Tensor, ask: Largest, known: Mapping[str, Any]) -> float:
    """The value that an ask means; infinity at rank 0, 0 beyond the smallest."""
    values = values.reshape(-1).float()
    n = int(values.count_nonzero()) if ask.nonzero else values.numel()
    if isinstance(ask.rank, str):
        fraction = known[ask.rank]
        rank = max(1, int(fraction * n)) if fraction > 0.0 else 0
    else:
        rank = ask.rank(n, known)
    if rank <= 0:
        return math.inf
    return float(values.sort(descending=True).values[rank - 1]) if rank <= values.numel() else 0.0


def call_by_name(function: Callable[..., Any], known: Mapping[str, Any]) -> Any:
    """Call a function with the known values of its parameters' names."""
    parameters = inspect.signature(function).parameters.values()
    positional = [known[own.name] for own in parameters if own.kind is not inspect.Parameter.KEYWORD_ONLY]
    named = {own.name: known[own.name] for own in parameters if own.kind is inspect.Parameter.KEYWORD_ONLY}
    return function(*positional, **named)
