"""mergekit 0.1.5's methods and parameters, and the methods and settings that reproduce them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mergery.method import Setting
from mergery.recipe.values import Scalar


class _Required:
    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED: Any = _Required()


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Parameter:
    """One parameter of a mergekit method.

    kind:    the type of its scalars.
    default: its value where the file gives none; REQUIRED where it must, None where there is none.
    each:    whether every model has its own. One that is not is read from slices, modules and the file only.
    setting: the setting that it becomes; None where it changes nothing, or only together with another.
    convert: from its scalars to those of the setting.
    own:     what its scalars must be, where it becomes no setting by itself.
    """

    name: str
    kind: Literal["float", "int", "bool"] = "float"
    default: Any = REQUIRED
    each: bool = False
    setting: str | None = None
    convert: Callable[[Any], Scalar] = _same
    own: Setting | None = None


@dataclass(frozen=True)
class Together:
    """One setting that two parameters make; `make` takes their scalars in the order of `names`."""

    names: tuple[str, str]
    setting: str
    make: Callable[[Any, Any], Scalar]


@dataclass(frozen=True)
class Rule:
    """One method of mergekit, which has the same name here.

    base:     `required` and `optional` bases are what differences are taken from; a `first` one is required
              and the first of the merged models; as `input` it is one more model like the others.
    settings: what reproduces mergekit and cannot be changed in its files.
    models:   how many it merges, at least and at most, where the method here merges other numbers.
    """

    base: Literal["required", "optional", "first", "input"]
    parameters: tuple[Parameter, ...] = ()
    settings: Mapping[str, Scalar] = field(default_factory=dict)
    together: Together | None = None
    models: tuple[int, int] | None = None

    @property
    def takes_base(self) -> bool:
        """Whether the base is what differences are taken from, rather than one of the merged models."""
        return self.base in ("required", "optional")

    def find(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def _of_all(name: str, default: Any = REQUIRED, setting: str = "") -> Parameter:
    return Parameter(name, default=default, setting=setting or name)


def _of_each(name: str, default: Any = REQUIRED) -> Parameter:
    return Parameter(name, default=default, each=True, setting=name)


def _flag(name: str, default: bool, setting: str | None = None, yes: Scalar = True, no: Scalar = False) -> Parameter:
    return Parameter(name, "bool", default, setting=setting, convert=lambda value: yes if value else no)


_MASK = Parameter("int8_mask", "bool", default=None)  # the type of an intermediate


def _arithmetic(
    *own: Parameter,
    normalize: bool | Parameter,
    rescale: bool | None = None,
    together: Together | None = None,
    **more: Scalar,
) -> Rule:
    """Task arithmetic and its kin: they share their parameters, and thin nothing unless a density says so."""
    shared = (
        _of_each("weight"),
        *own,
        *(() if rescale is None else (_flag("rescale", rescale, "rescale", "l1", "none"),)),
        _flag("normalize", normalize, "normalize") if isinstance(normalize, bool) else normalize,
        _of_all("lambda", 1.0, "scale"),
        _MASK,
    )
    return Rule("required", shared, more, together)


_DENSITY = _of_each("density", 1.0)
_GAMMA = _of_each("gamma", 0.01)
_EPSILON = Parameter("epsilon", default=0.15, each=True, own=Setting("epsilon", "fraction", 0.15))
_WINDOW = Together(  # nothing is drawn at density 1, whatever epsilon
    ("density", "epsilon"), "window", lambda density, epsilon: 0.0 if density >= 1.0 else 2.0 * epsilon
)
_MEAN = _flag("normalize", True, "function", "mean", "sum")
_SCOPE = Together(  # without row_wise it turns vectors along the last dimension: rows
    ("nuslerp_flatten", "nuslerp_row_wise"),
    "scope",
    lambda flatten, row_wise: "tensor" if flatten else "column" if row_wise else "row",
)

RULES: dict[str, Rule] = {
    "linear": Rule("input", (_of_each("weight"), _flag("normalize", True, "normalize"))),
    "slerp": Rule("first", (_of_all("t"),), {"lerp_above": 0.9995}, models=(2, 2)),
    "nuslerp": Rule(
        "optional",
        (_of_each("weight"), _flag("nuslerp_flatten", True), _flag("nuslerp_row_wise", False)),
        together=_SCOPE,
    ),
    "multislerp": Rule(
        "optional",
        (_of_each("weight"), _flag("normalize_weights", True, "normalize"), Parameter("eps", default=None)),
        {"tangent": "projection"},
    ),
    "karcher": Rule("input", (Parameter("max_iter", "int", 10, setting="max_iter"), _of_all("tol", 1e-5))),
    "task_arithmetic": _arithmetic(normalize=False),
    "ties": _arithmetic(_DENSITY, normalize=_MEAN, rescale=False, scope="tensor"),
    "dare_linear": _arithmetic(_DENSITY, normalize=False, rescale=True),
    "dare_ties": _arithmetic(_DENSITY, normalize=False, rescale=True),
    "della": _arithmetic(_DENSITY, _EPSILON, normalize=True, rescale=True, together=_WINDOW),
    "della_linear": _arithmetic(_DENSITY, _EPSILON, normalize=False, rescale=True, together=_WINDOW),
    "breadcrumbs": _arithmetic(_DENSITY, _GAMMA, normalize=False, rescale=False, scope="tensor"),
    "breadcrumbs_ties": _arithmetic(_DENSITY, _GAMMA, normalize=False, rescale=False, scope="tensor"),
    "model_stock": Rule("required", (_flag("filter_wise", False, "scope", "row", "tensor"),), {"clamp": False}),
    "sce": Rule("required", (_of_all("select_topk", 1.0), _MASK), {"select_applies_to": "values"}),
    "nearswap": Rule("required", (_of_all("t"),)),
    "arcee_fusion": Rule("required"),
    "ram": Rule("required", (_of_all("epsilon", 1e-5),)),
    "ramplus_tl": Rule("required", (_of_all("epsilon", 1e-5), _of_all("r", 0.1), _of_all("alpha", 0.2))),
    "passthrough": Rule("input", (_of_each("scale", None),)),
}

KNOWN = {parameter.name for rule in RULES.values() for parameter in rule.parameters} | {"embed_slerp"}
"""Names that some method of mergekit reads, or once read: on another method they change nothing."""
