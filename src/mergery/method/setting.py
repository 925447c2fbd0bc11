"""A method's settings: their types, and the check of what a user gives. Loads neither torch nor numpy."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from mergery.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

Fraction = Annotated[float, "fraction"]
"""A number in [0, 1]."""

Task = Annotated[int, "task"]
"""One of the merged models: by its name in a recipe, by its index in Python. The method receives the index."""


if TYPE_CHECKING:

    class PerModel(np.ndarray, Generic[T]):
        """A setting with one value for each merged model; the method receives a float64 array (k,)."""
else:

    class PerModel(Generic[T]):
        """A setting with one value for each merged model; the method receives a float64 array (k,)."""


WEIGHT = "weight"
"""The setting of many methods that says how much each model weighs: parts and rest of a merge take over the merge's own."""


def each(value: Any) -> Any:
    """The default of a `PerModel` setting: the same value for each model."""
    return value


@dataclass(frozen=True)
class Setting:
    """One setting of a method: its type, its default and whether each model has its own."""

    name: str
    kind: Literal["bool", "int", "float", "fraction", "choice", "task"]
    default: Any
    per_model: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False  # None is a legal value
    doc: str = ""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def type_in_words(self) -> str:
        """The type in the words of the documentation."""
        words = {
            "bool": "true or false",
            "int": "a whole number",
            "float": "a number",
            "fraction": "a number in [0, 1]",
            "task": "one of the merged models",
        }
        text = words.get(self.kind) or "one of " + ", ".join(self.choices)
        return text + (" or null" if self.optional else "")

    def check(self, value: Any, what: str = "") -> Any:
        """Return `value` in the setting's type; a task stays a name. Raises RecipeError saying what is wrong."""
        what = what or self.name
        if value is None and self.optional:
            return None
        if self.kind == "bool" and isinstance(value, bool):
            return value
        if self.kind == "int" and isinstance(value, int) and not isinstance(value, bool):
            return value
        if self.kind == "choice" and value in self.choices:
            return value
        if self.kind == "task" and isinstance(value, (str, int)) and not isinstance(value, bool):
            return value
        if self.kind in ("float", "fraction") and isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value)
            if number != number or number in (float("inf"), float("-inf")):
                raise RecipeError(f"{what} is {value}", why=f"{self.name} must be a finite number")
            if self.kind == "fraction" and not 0.0 <= number <= 1.0:
                raise RecipeError(f"{what} is {value}", why=f"{self.name} must lie in [0, 1]")
            return number
        hint = did_you_mean(str(value), self.choices) if self.kind == "choice" else ""
        raise RecipeError(f"{what} is {value!r}", why=f"{self.name} must be {self.type_in_words()}", hint=hint)

    def received(self, values: Sequence[Any], merged: Sequence[str]) -> Any:
        """Checked values, one for each model where it is per model, as the method receives them.

        Numbers by model are float64 (k,); a task is its index among the merged models. Raises RecipeError.
        """
        values = [self._index(value, merged) for value in values] if self.kind == "task" else values
        if not self.per_model:
            return values[0]
        if self.kind not in ("float", "fraction", "int") or None in values:
            return list(values)
        import numpy as np

        return np.array(values, dtype=np.float64)

    def _index(self, task: Any, merged: Sequence[str]) -> int | None:
        if task is None or (isinstance(task, int) and 0 <= task < len(merged)):
            return task
        if task not in merged:
            hint = did_you_mean(str(task), merged)
            raise RecipeError(f"{self.name} names {task!r}, which is not merged", hint=hint)
        return merged.index(task)
