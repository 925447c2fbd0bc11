"""mergekit's parameters: scalars, gradients and filters at four levels, and the values of a recipe that they become.

A level (a source, a slice, a module, the whole file) is asked only where those above it give no value, because they
lack the parameter or none of their filters match. `Chain` keeps that order flat: the first case that holds wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mergery.errors import RecipeError, did_you_mean
from mergery.method import Setting
from mergery.recipe.document import KeyPath
from mergery.recipe.mergekit.methods import Parameter
from mergery.recipe.values import Condition, Constant, Filtered, Gradient, Scalar

Chain = tuple[tuple[Condition, Constant | Gradient], ...]
Fail = Callable[..., None]

ALL = Condition()
TRUE = ("1", "true", "t", "yes", "y", "on")
FALSE = ("0", "false", "f", "no", "n", "off")


@dataclass(frozen=True)
class Level:
    """The `parameters` of one place in a file: a chain for each parameter that it gives."""

    chains: Mapping[str, Chain]

    def get(self, name: str) -> Chain:
        return self.chains.get(name, ())


def read_chain(data: Any, path: KeyPath, parameter: Parameter, setting: Setting | None, fail: Fail) -> Chain:
    """The cases of one parameter. Scalars are converted to those of the native setting and checked against it."""
    if isinstance(data, dict):
        data = [data]
        paths = [path]
    elif isinstance(data, list) and data and any(isinstance(item, dict) for item in data):
        paths = [(*path, index) for index in range(len(data))]
    else:
        value = _read_value(data, path, parameter, setting, fail)
        return ((ALL, value),) if value else ()
    cases = []
    for item, at in zip(data, paths, strict=True):
        if not isinstance(item, dict):
            fail(f"{parameter.name}: {item!r} stands among filters", at, hint="write {filter: …, value: …}")
            continue
        for key in item:
            if key not in ("filter", "value"):
                fail(
                    f"unknown key {key!r}",
                    (*at, key),
                    key=True,
                    hint=did_you_mean(str(key), ("filter", "value")),
                )
        if "value" not in item:
            fail(f"{parameter.name}: a filter without its value", at, hint="write {filter: mlp, value: 0.5}")
            continue
        wanted = item.get("filter")
        if wanted is not None and not isinstance(wanted, str):
            fail(f"the filter {wanted!r} is not text", (*at, "filter"), hint="put it in quotes")
            continue
        value = _read_value(item["value"], (*at, "value"), parameter, setting, fail)
        if value:
            cases.append((read_filter(wanted), value))
    return shorten(tuple(cases))


def read_filter(text: str | None) -> Condition:
    """A filter is a piece of the tensor's name, taken literally; `*`, nothing and an empty text match all."""
    if text in (None, "", "*"):
        return ALL
    assert text is not None
    return Condition(name="*" + "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text) + "*")


def shorten(chain: Chain) -> Chain:
    """Without the cases behind the first that always holds."""
    end = next((index for index, (condition, _) in enumerate(chain) if condition == ALL), len(chain))
    return chain[: end + 1]


def join(*chains: Chain) -> Chain:
    """Chains in falling precedence as one."""
    return shorten(tuple(case for chain in chains for case in chain))


def ends(chain: Chain) -> bool:
    """Whether it has a value for every tensor."""
    return bool(chain) and chain[-1][0] == ALL


def as_value(chain: Chain) -> Constant | Gradient | Filtered:
    """The value of a recipe that a chain says. The chain must not be empty."""
    return chain[0][1] if chain[0][0] == ALL else Filtered(chain)


def map_scalars(chain: Chain, change: Callable[[Any], Any]) -> Chain:
    """The chain with every scalar changed."""
    cases = []
    for condition, value in chain:
        if isinstance(value, Constant):
            cases.append((condition, Constant(change(value.value))))
        else:
            cases.append((condition, Gradient(tuple(change(point) for point in value.points), value.outside)))
    return tuple(cases)


def _read_value(
    data: Any, path: KeyPath, parameter: Parameter, setting: Setting | None, fail: Fail
) -> Constant | Gradient | None:
    if not isinstance(data, list):
        scalar = _read_scalar(data, path, parameter, setting, fail)
        return None if scalar is _WRONG else Constant(scalar)
    if not data:
        fail(
            f"{parameter.name}: an empty list is no value",
            path,
            hint="a number, or a gradient such as [0, 1]",
        )
        return None
    points = [_read_scalar(item, (*path, index), parameter, setting, fail) for index, item in enumerate(data)]
    if any(point is _WRONG for point in points):
        return None
    if all(point == points[0] for point in points):
        return Constant(points[0])
    return Gradient(tuple(points), "first")


_WRONG: Any = object()


def _read_scalar(data: Any, path: KeyPath, parameter: Parameter, setting: Setting | None, fail: Fail) -> Scalar:
    number = coerce(data, parameter.kind)
    if number is None:
        if setting is not None and setting.numeric and isinstance(data, str):
            return _checked(data, path, parameter, setting, fail)
        words = {"float": "a number", "int": "a whole number", "bool": "true or false"}[parameter.kind]
        example = "true" if parameter.kind == "bool" else "1"
        fail(
            f"{parameter.name} is {data!r}",
            path,
            why=f"it must be {words}",
            hint=f"such as {parameter.name}: {example}",
        )
        return _WRONG
    scalar: Any = parameter.convert(number)
    return scalar if setting is None else _checked(scalar, path, parameter, setting, fail)


def _checked(scalar: Scalar, path: KeyPath, parameter: Parameter, setting: Setting, fail: Fail) -> Scalar:
    """The scalar, if the setting takes it."""
    try:
        setting.check(scalar, parameter.name)
    except RecipeError as error:
        fail(error.what, path, why=error.why, hint=error.hint)
        return _WRONG
    return scalar


def coerce(data: Any, kind: str) -> float | int | bool | None:
    """A YAML scalar in a parameter's type, quoted or not; None where it is of another."""
    if isinstance(data, str):
        word = data.strip().lower()
        if kind == "bool":
            return True if word in TRUE else False if word in FALSE else None
        try:
            data = float(word)
        except ValueError:
            return None
    if kind == "bool":
        return bool(data) if isinstance(data, (bool, int, float)) and data in (0, 1) else None
    if not isinstance(data, (bool, int, float)):
        return None
    try:
        number = float(data)
    except OverflowError:
        return None
    if kind == "float":
        return number
    return int(number) if math.isfinite(number) and number == int(number) else None
