"""Making a function a method: its signature is read once, and says all that planning and the engine need to know."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mergery.method.asks import Ask, Coefficients, Count, Deltas, Gram, MergedDelta, Models
from mergery.method.calling import manual, signature_of
from mergery.method.consensus import Consensus
from mergery.method.declaration import Declaration, Gives, Settings, Span, Takes, Unit, Weighs
from mergery.method.evaluating import Evaluation, as_tensors, evaluate_factored
from mergery.method.packing import Packing
from mergery.method.roles import Preset, Rest
from mergery.method.routing import FactoredRouting, Routing, of_cores
from mergery.method.setting import PerModel, Setting

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
else:
    from mergery.method.asks import Tensor


class Method(Declaration):
    """A merging method: a plain function, all that it declares, and what is said of it. It can be called."""

    def __repr__(self) -> str:
        return f"<mergery.methods.{self.name}: {self.summary}>"

    @property
    def __signature__(self) -> inspect.Signature:
        """How it is called, with the types of its settings."""
        return signature_of(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """What it needs besides the models, in words."""
        base = {"required": ("a base",), "optional": ("a base for task vectors",), "unused": ()}[self.base]
        task = any(setting.kind == "task" for setting in self.settings.values())
        known = tuple(
            f"statistics of {'the base on the data of ' if ask.of_base else ''}each model ({ask.statistic})"
            for ask in self.statistics
        )
        return (*base, *(("a task to serve",) if task else ()), *known)

    @property
    def cost(self) -> str:
        """How often it reads the models with its default settings, in words."""
        usual = {setting.name: setting.default for setting in self.settings.values()}
        if self.spans_model(usual):
            return "statistics of the whole model, then each tensor once"
        if self.reads_twice(usual):
            return "statistics of each tensor, then the tensor once more"
        if self.routing is not None:
            return f"each matrix once, as a whole: {self.routing(2, 1024, 1024, usual).words}"
        return "each tensor once" if self.unit != "tensor" else "each tensor once, as a whole"

    @property
    def when(self) -> str:
        """When to use it: the last paragraph of the docstring, in one line."""
        match = re.search(r"^Use it .*(?:\n.+)*", self.doc, re.M)
        return " ".join(match[0].split()) if match else ""

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or "").split("\n", 1)[0]

    @property
    def doc(self) -> str:
        """The whole docstring."""
        return inspect.getdoc(self.function) or ""

    @property
    def about(self) -> str:
        """The docstring without its first line and without its block of settings."""
        return re.sub(r"\n{3,}", "\n\n", _BLOCK.sub("", self.doc.partition("\n")[2])).strip("\n")

    def __call__(
        self,
        models: Sequence[Any],
        base: Tensor | None = None,
        *,
        seed: int = 0,
        statistics: Mapping[str, Sequence[Tensor]] | None = None,
        **settings: Any,
    ) -> Any:
        """Merge plain tensors, or numpy arrays, of one shape: what the method means, up to the rounding of sums.

        `mergery.merge_tensors` gives the bytes of a merge. `statistics` are those of data that the method asks for, by kind,
        one for each model. `settings` are the method's own; a per-model setting takes one value or a sequence with one for each
        model. Returns a tensor, or an array, of the first model's dtype. Methods on matrices
        also take task vectors as low-rank factors (`mergery.kernels.spectral.Factored`): without a base the result is the
        merged task vector, factored where the method allows. Raises RecipeError for settings or shapes that do not fit,
        DataError for what is not finite.
        """
        if any(hasattr(model, "left") for model in models):
            return evaluate_factored(self, models, base, seed, settings)
        tensors, origin, give = as_tensors(self, models, base)
        return give(Evaluation(self, tensors, origin, seed, settings, statistics).result())


def method(
    *,
    paper: str = "",
    span: Span | None = None,
    unit: Unit = "element",
    models: tuple[int, int | None] = (1, None),
    symmetric: bool = True,
    check: Callable[[Settings], None] | None = None,
    packing: Packing | None = None,
    roles: tuple[str, ...] | None = None,
    rest: Rest = "linear",
    presets: Mapping[str, Preset] | None = None,
    routing: Routing | None = None,
    factored: FactoredRouting | None = None,
    factor: Callable[[Settings], float] | None = None,
    average: Callable[[Settings], np.ndarray] | None = None,
    preserves_l1: Callable[[Settings], bool] | None = None,
    usual: Callable[[Settings], float] | None = None,
    additive: Mapping[str, Any] | None = None,
    weighs: Weighs = "shares",
) -> Callable[[Callable[..., Any]], Method]:
    """Make a function a merging method. Its name is the function's name.

    paper:     arXiv id or citation key of the source.
    span:      for `Count` and `Gram` methods: whether the vectors are the models, the deltas, or the deltas where a
               base is named (`either`). Told by the first parameter for the others.
    unit:      the smallest piece on which the function may be called: any chunk (flattened), whole rows (2-D, rows are
               output neurons; a vector is one row), the whole tensor in its own shape, or matrices [out, in], however they
               are stored: one, or several of one shape (..., out, in), each by itself.
    models:    how many models it merges, at least and at most, not counting the base.
    symmetric: whether the order of the models is immaterial (equal settings).
    check:     looks at all settings of one tensor together, as the function would receive them (per-model settings are
               float64 arrays), and raises RecipeError where they do not fit each other.
    packing:   how `mergery pack` keeps the models that it serves by task.
    roles:     those of the tensors on which it works; None for all. A `matrix` method leaves out what is no matrix.
    rest:      what the others get, unless the recipe says otherwise: a method's name, `base`, or a mapping of a method
               and its settings.
    presets:   settings, roles and rest by the name under which a recipe asks for them, such as `paper`.
    routing:   for a `matrix` method: its route, time and workspace for one matrix.
    factored:  for a `matrix` method that returns a `MergedDelta`: its route where task vectors are given as low-rank factors,
               None where it multiplies them out. Without one, `routing` is asked about cores of all ranks together.
    factor:    for a method that takes one model's numbers times a factor: that factor. At 1 a tensor is copied.
    average:   for a method that goes by the directions of models: the weights (k,) of the average that stands for it where
               the numbers of a tensor have no direction. Task vectors always have one.
    preserves_l1: for a method that returns a `Consensus`: whether that preserves L1 norms, as the settings say.
    usual:     for a method whose sum overshoots at full weight: the `scale` that `auto` stands for where no weight is
               given, from the other settings.
    additive:  for a method whose result is d_0 + scale * sum_i w_i d_i, of which no weight changes a d (divided by the sum of
               weights where `normalize` says so): the settings that this asks for. Its weights can be learnt.
    weighs:    what the setting `weight` is where there is no `normalize`: shares of one another, so that large ones
               for all make no large change, or factors of what is added.
    """

    def declare(function: Callable[..., Any]) -> Method:
        takes, gives, asks, settings = _read_signature(function)
        returned = typing.get_type_hints(function, {**globals(), **function.__globals__})["return"]
        able = unit == "matrix" and takes == "deltas" and returned is MergedDelta
        resolved = span or ("deltas" if takes == "deltas" or gives == "consensus" else "models")
        made = Method(
            name=function.__name__,
            function=function,
            takes=takes,
            span=resolved,
            unit=unit,
            asks=tuple(asks),
            settings=settings,
            paper=paper,
            models=models,
            symmetric=symmetric,
            gives=gives,
            check=check,
            packing=packing,
            roles=roles,
            rest=rest,
            presets=presets or {},
            routing=routing,
            factored=(factored or of_cores(routing)) if able else None,
            factor=factor,
            average=average,
            preserves_l1=preserves_l1,
            usual=usual,
            additive=additive,
            weighs=weighs,
        )
        object.__setattr__(made, "__doc__", manual(made))  # what `help` shows of an object is its own docstring
        return made

    return declare


_BLOCK = re.compile(r"^Settings:\n((?:[ ]+.*\n?|\n(?=[ ]))*)", re.M)


def _setting_docs(function: Callable[..., Any]) -> dict[str, str]:
    """What the docstring's `Settings:` block says of each setting."""
    match = _BLOCK.search(inspect.getdoc(function) or "")
    texts: dict[str, str] = {}
    for line in match[1].splitlines() if match else ():
        name, colon, text = line.strip().partition(": ")
        if colon and len(line) - len(line.lstrip()) == 4 and name.isidentifier():
            texts[name] = text
        elif texts:
            texts[next(reversed(texts))] += " " + line.strip()
    return texts


_FIRST: dict[Any, Takes] = {Count: "count", Gram: "gram", Models: "models", Deltas: "deltas"}
_LAST: dict[Any, Gives] = {
    Coefficients: "coefficients",
    Consensus: "consensus",
    Tensor: "tensor",
    MergedDelta: "tensor",
}


def _read_signature(
    function: Callable[..., Any],
) -> tuple[Takes, Gives, list[tuple[str, Ask]], dict[str, Setting]]:
    names = {**globals(), **function.__globals__}
    hints = typing.get_type_hints(function, globalns=names, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())
    takes = _FIRST[hints[parameters[0].name]]
    asks: list[tuple[str, Ask]] = []
    settings: dict[str, Setting] = {}
    docs = _setting_docs(function)
    for parameter in parameters[1:]:
        hint = hints[parameter.name]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            settings[parameter.name] = _read_setting(
                parameter.name, hint, parameter.default, docs.get(parameter.name, "")
            )
            continue
        ask = next(item for item in typing.get_args(hint)[1:] if isinstance(item, Ask))
        asks.append((parameter.name, ask))
    return takes, _LAST[hints["return"]], asks, settings


def _read_setting(name: str, hint: Any, default: Any, doc: str) -> Setting:
    per_model = typing.get_origin(hint) is PerModel
    if per_model:
        (hint,) = typing.get_args(hint)
    optional = False
    if type(None) in typing.get_args(hint):
        optional = True
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    words: tuple[str, ...] = ()
    for other in typing.get_args(hint):
        if typing.get_origin(hint) is not Literal and typing.get_origin(other) is Literal:  # a number or a word
            words = typing.get_args(other)
            (hint,) = (arg for arg in typing.get_args(hint) if arg is not other)
    if typing.get_origin(hint) is Annotated:
        hint, *extras = typing.get_args(hint)
        if extras:  # "fraction", "way" or "task"
            return Setting(name, extras[0], default, per_model, optional=optional, doc=doc)
    if typing.get_origin(hint) is Literal:
        return Setting(name, "choice", default, per_model, typing.get_args(hint), optional, doc)
    kinds: dict[Any, Literal["bool", "int", "float"]] = {bool: "bool", int: "int", float: "float"}
    return Setting(name, kinds[hint], default, per_model, words, optional, doc)
