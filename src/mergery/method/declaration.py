"""What is known of a method from its signature and its decorator: all that planning and the engine ask of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mergery.errors import RecipeError, did_you_mean
from mergery.method.asks import Ask, Largest
from mergery.method.compiled import find_compiled
from mergery.method.packing import Packing
from mergery.method.roles import Preset, Rest
from mergery.method.routing import FactoredRouting, Routing
from mergery.method.setting import SCALE, WEIGHT, Setting

if TYPE_CHECKING:
    import numpy as np

OVERSHOOTS = 2.0  # times the usual scale: what is above is worth a word

Takes = Literal["count", "gram", "models", "deltas"]
Gives = Literal["coefficients", "consensus", "tensor"]
Span = Literal["models", "deltas", "either"]
Unit = Literal["element", "row", "tensor", "matrix"]
Weighs = Literal["shares", "factors"]
Settings = Mapping[str, Any]
"""A method's settings at one tensor, as it receives them."""


OTHER_NAMES = {
    "alpha": ("t", "scale"), "ratio": ("t", "density"), "lambda": ("scale",), "coefficient": ("scale", "weight"),
    "coefficients": ("weight",), "scaling_factor": ("scale",), "scaling": ("scale",), "weights": ("weight",), "t": ("weight",),
    "k": ("density",), "trim": ("density",), "p": ("density",), "fraction": ("density",), "interpolation": ("t",),
}  # fmt: skip
"""Settings under other names, and which of a method's own they may be."""


@dataclass(frozen=True)
class Declaration:
    """A merging method as it is declared: see `mergery.method.method` for what the fields mean."""

    name: str
    function: Callable[..., Any]
    takes: Takes
    span: Span
    unit: Unit
    asks: tuple[tuple[str, Ask], ...]
    settings: Mapping[str, Setting]
    paper: str
    models: tuple[int, int | None]
    symmetric: bool
    gives: Gives
    check: Callable[[Settings], None] | None = None
    packing: Packing | None = None
    roles: tuple[str, ...] | None = None
    rest: Rest = "linear"
    presets: Mapping[str, Preset] = field(default_factory=dict)
    routing: Routing | None = None
    factored: FactoredRouting | None = None
    factor: Callable[[Settings], float] | None = None
    average: Callable[[Settings], np.ndarray] | None = None
    preserves_l1: Callable[[Settings], bool] | None = None
    usual: Callable[[Settings], float] | None = None
    additive: Mapping[str, Any] | None = None
    weighs: Weighs = "shares"

    @cached_property
    def base(self) -> Literal["required", "optional", "unused"]:
        """Whether the method wants a base. An unused base may still be named: it donates config and tokenizer."""
        if self.span == "either":
            return "optional"
        asked = any("base" in ask.rows for _, ask in self.asks)
        return "required" if self.span == "deltas" or asked else "unused"

    @cached_property
    def statistics(self) -> tuple[Ask, ...]:
        """The asks for statistics of data, aligned ones first."""
        return tuple(sorted((ask for _, ask in self.asks if ask.statistic), key=lambda ask: not ask.aligned))

    @cached_property
    def takes_factors(self) -> bool:
        """Whether task vectors that are low-rank factors are all that it needs: no base, no statistics."""
        asked = any(ask.streamed or ask.rows or ask.statistic for _, ask in self.asks)
        return self.factored is not None and not asked

    @property
    def first(self) -> str:
        """The name of the parameter that takes what is merged."""
        return next(iter(inspect.signature(self.function).parameters))

    # --- at a tensor with some settings -------------------------------------------------------------------------------

    def streamed(self, settings: Settings) -> list[tuple[str, Ask]]:
        """The statistics that are needed, by parameter."""
        return [(name, ask) for name, ask in self.asks if ask.streamed and ask.needed(settings)]

    def reads_twice(self, settings: Settings) -> bool:
        """Whether the inputs are read before they are merged: for statistics, a Gram matrix, or L1 norms of what is kept."""
        preserves = self.preserves_l1 is not None and self.preserves_l1(settings)
        return self.takes == "gram" or preserves or bool(self.streamed(settings))

    @property
    def orders(self) -> list[tuple[str, Largest]]:
        """The order statistics that it may ask for, by parameter."""
        return [(name, ask) for name, ask in self.asks if isinstance(ask, Largest)]

    def ranks(self, settings: Settings) -> bool:
        """Whether order statistics are needed."""
        return any(ask.needed(settings) for _, ask in self.orders)

    def gram_spans_model(self, settings: Settings) -> bool:
        """Whether the Gram matrix is that of whole models."""
        return self.takes == "gram" and settings.get("scope") == "model"

    def spans_model(self, settings: Settings) -> bool:
        """Whether statistics of the whole model are needed."""
        asked = any(ask.spans_model(settings) for _, ask in self.streamed(settings))
        return asked or self.gram_spans_model(settings)

    def vectors(self, settings: Settings, dimensions: int = 2) -> Literal["tensor", "row", "column"]:
        """What one vector of a tensor of so many dimensions is, where coefficients are found for each."""
        scope = settings.get("scope", "tensor") if self.takes == "gram" else "tensor"
        if scope == "column" and dimensions < 2:
            return "row"  # a vector is one, whichever way matrices are cut
        return scope if scope in ("row", "column") else "tensor"

    def uses_torch(self, settings: Settings) -> bool:
        """Whether it is made of functions on tensors that have no compiled version, or of rows or columns apart."""
        if self.vectors(settings) != "tensor":
            return True
        functions = [getattr(ask, "of", None) for _, ask in self.streamed(settings)]
        functions += [self.function] if self.gives == "tensor" else []
        return any(find_compiled(function) is None for function in functions if function is not None)

    def remarks(self, settings: Settings) -> Iterator[str]:
        """What a reader should know of the settings."""
        weight: Any = settings.get(WEIGHT)
        if settings.get("normalize") and hasattr(weight, "min") and weight.min() < 0.0 < weight.max():
            yield "normalize divides by the sum of the weights, and some are negative"
        if self.usual is not None and settings[SCALE] > OVERSHOOTS * (usual := self.usual(settings)):
            count = next(len(value) for value in settings.values() if hasattr(value, "tolist"))
            yield f"the sum of {count} task vectors at full weight usually overshoots: begin with scale {usual:.2f}"

    def factors(self, settings: Settings) -> dict[str, float]:
        """The weight, where it is not relative to others', and the scale: the largest magnitude of each."""
        found = {}
        relative = settings.get("normalize", self.weighs == "shares")
        for name in (SCALE, *([] if relative else [WEIGHT])):
            value: Any = settings.get(name)
            each = value.tolist() if hasattr(value, "tolist") else [value]
            found[name] = max((abs(number) for number in each if isinstance(number, (int, float))), default=0.0)
        return found

    def settle(self, settings: dict[str, Any], given: Container[str]) -> dict[str, Any]:
        """Settings as the method receives them, checked together; in `scale: auto` of a sum, the number that it stands for.

        That is 1 where a weight is among what was given: it says already how much is added. Raises RecipeError for settings
        that do not fit each other.
        """
        if self.check is not None:
            self.check(settings)
        if self.usual is not None and settings[SCALE] == "auto":
            settings[SCALE] = 1.0 if WEIGHT in given else self.usual(settings)
        return settings

    def setting_meant(self, name: str) -> str:
        """What to try in place of a setting that it does not have."""
        for other in OTHER_NAMES.get(name.lower(), ()):
            if other in self.settings:
                return f"did you mean {other!r}?"
        near = did_you_mean(name, self.settings)
        if near.startswith("did you mean"):
            return near
        return f"its settings: {', '.join(self.settings)}" if self.settings else f"leave it out: {self.name} has none"

    # --- called from Python -------------------------------------------------------------------------------------------

    def resolve(self, k: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """All settings as the method receives them, from those given in Python for k models.

        One with a value for each model takes one for all as well; a task is an index. Raises RecipeError for what does not fit.
        """
        for name in given:
            if name not in self.settings:
                raise RecipeError(f"{self.name} has no setting {name!r}", hint=self.setting_meant(name))
        names = tuple(str(index) for index in range(k))
        resolved: dict[str, Any] = {}
        for setting in self.settings.values():
            if setting.required and setting.name not in given:
                raise RecipeError(
                    f"{self.name} needs {setting.name!r}",
                    why=setting.type_in_words(),
                    hint=f"{setting.name}={setting.example()}",
                )
            value = given.get(setting.name, setting.default)
            value = value.tolist() if hasattr(value, "tolist") else value  # of numpy
            listed = setting.per_model and isinstance(value, (list, tuple))
            each: list[Any] = list(value) if listed else [value] * (k if setting.per_model else 1)
            if listed and len(each) != k:
                hint = f"{k} values, or one for all models"
                raise RecipeError(f"{setting.name} has {len(each)} values for {k} models", hint=hint)
            checked = [setting.check(item.item() if hasattr(item, "item") else item) for item in each]
            resolved[setting.name] = setting.received(checked, names)
        return self.settle(resolved, given)

    def refuse(
        self, models: Sequence[Any], base: Any = None, statistics: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        """Raise RecipeError where models, base and statistics, tensors or factors of one, are not what the method merges."""
        least, most = self.models
        if not least <= len(models) <= (most or len(models)):
            wanted = least if least == most else f"at least {least}"
            hint = "give a list of tensors, one for each model"
            raise RecipeError(f"{self.name} merges {wanted} models, not {len(models)}", hint=hint)
        if self.base == "required" and base is None:
            raise RecipeError(f"{self.name} needs a base", why="it merges differences from it", hint="base=<a tensor>")
        shapes = [tuple(tensor.shape) for tensor in (*models, *([] if base is None else [base]))]
        if len(set(shapes)) > 1:
            why, hint = ", ".join(map(str, shapes)), "merge tensors of one shape"
            raise RecipeError("the tensors differ in shape", why=why, hint=hint)
        if self.unit == "matrix" and len(shapes[0]) < 2:
            raise RecipeError(
                f"{self.name} merges matrices [out, in], not a tensor of shape {list(shapes[0])}",
                hint="merge vectors with linear or task_arithmetic",
            )
        for ask in self.statistics:
            known = (statistics or {}).get(ask.kind)
            if known is None or len(known) != len(models):
                of = "of the base on the data of" if ask.of_base else "of"
                why, hint = f"{of} each of the {len(models)} models", f"statistics={{{ask.kind!r}: [...]}}"
                raise RecipeError(f"{self.name} needs statistics: {ask.kind}", why=why, hint=hint)
            for own in known:
                wanted = shapes[0] if ask.aligned else gram_shape(shapes[0])
                if tuple(own.shape) != wanted:
                    what = f"the {ask.kind} of a tensor of {shapes[0]} is {tuple(own.shape)}"
                    raise RecipeError(what, why=f"it must be {wanted}", hint="measure it of this very tensor")


def gram_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the Gram matrices of what matrices (..., out, in) are multiplied with; a kernel (out, in x ...) is one."""
    if len(shape) > 3:
        return (math.prod(shape[1:]),) * 2
    return (*shape[:-2], *shape[-1:] * 2)
