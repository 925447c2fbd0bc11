"""A method's settings: their types, and the check of what a user gives. Loads neither torch nor numpy."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from mergery.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _plain(number: float) -> float | int:
    """A whole number without its point."""
    return int(number) if number.is_integer() else number


Fraction = Annotated[float, "fraction"]
"""A number in [0, 1]."""

Way = Annotated[float, "way"]
"""How far along the way from one model (0) to another (1). A step beyond either is an extrapolation; more is a slip."""

LIMITS = {"fraction": (0.0, 1.0), "way": (-1.0, 2.0)}
"""The least and the greatest number of a kind."""

LEAST_PERCENT = 5.0  # a number above its limit is taken for a percentage from here on

Task = Annotated[int, "task"]
"""One of the merged models: by its name in a recipe, by its index in Python. The method receives the index."""


Auto = float | Literal["auto"]
"""A number, or the word `auto` for what a rule of the method finds."""


if TYPE_CHECKING:

    class PerModel(np.ndarray, Generic[T]):
        """A setting with one value for each merged model; the method receives a float64 array (k,)."""
else:

    class PerModel(Generic[T]):
        """A setting with one value for each merged model; the method receives a float64 array (k,)."""


WEIGHT = "weight"
"""The setting of many methods that says how much each model weighs: parts and rest of a merge take over the merge's own."""

SCALE = "scale"
"""The setting of many methods that multiplies the merged task vector."""


def each(value: Any) -> Any:
    """The default of a `PerModel` setting: the same value for each model."""
    return value


@dataclass(frozen=True)
class Setting:
    """One setting of a method: its type, its default and whether each model has its own."""

    name: str
    kind: Literal["bool", "int", "float", "fraction", "way", "choice", "task"]
    default: Any
    per_model: bool = False
    choices: tuple[str, ...] = ()  # all values, or words that a number may be replaced by, such as `auto`
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
            "way": "a number in [-1, 2]",
            "task": "one of the merged models",
        }
        text = words.get(self.kind) or "one of " + ", ".join(self.choices)
        words_too = self.choices if self.kind != "choice" else ()
        return " or ".join([text, *words_too, *(["null"] if self.optional else [])])

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers with a fraction."""
        return self.kind in ("float", "fraction", "way")

    def check(self, value: Any, what: str = "") -> Any:
        """Return `value` in the setting's type; a task stays a name. Raises RecipeError saying what is wrong.

        `what` is what the user calls the setting, where that is not its name.
        """
        what = what or self.name
        if value is None and self.optional:
            return None
        if self.kind == "bool" and isinstance(value, bool):
            return value
        if self.kind == "int" and isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and value in self.choices:
            return value
        if self.kind == "task" and isinstance(value, (str, int)) and not isinstance(value, bool):
            return value
        if not (self.numeric and isinstance(value, (int, float)) and not isinstance(value, bool)):
            why = f"{what} must be {self.type_in_words()}"
            raise RecipeError(f"{what} is {_shown(value)}", why=why, hint=self._meant(value, what))
        number = float(value)
        if not math.isfinite(number):
            why = f"{what} must be a finite number"
            raise RecipeError(f"{what} is {value}", why=why, hint=f"such as {what}: {self.example()}")
        low, high = LIMITS.get(self.kind, (number, number))
        if not low <= number <= high:
            why = f"{what} must lie in [{low:g}, {high:g}]"
            raise RecipeError(f"{what} is {_plain(number)}", why=why, hint=self._meant(value, what))
        return number

    def example(self) -> str:
        """A value that a recipe may give: the default where there is one."""
        if not self.required and self.default is not None:
            return str(self.default).lower() if isinstance(self.default, bool) else f"{self.default}"
        words = {"bool": "true", "int": "1", "float": "1", "fraction": "0.5", "way": "0.5", "task": "<a model's name>"}
        return words.get(self.kind) or self.choices[0]

    def _meant(self, value: Any, what: str) -> str:
        """What to try in place of a value that does not fit: what it says in percent or in quotes, or an example."""
        if self.kind == "choice":
            return did_you_mean(str(value), self.choices)
        text = str(value).strip().lower()
        if self.kind == "bool" and text in ("true", "false"):
            return f"{what}: {text}, without quotes"
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = math.nan
        low, high = LIMITS.get(self.kind, (-math.inf, math.inf))
        percent = text.endswith("%") or not low <= number <= high
        if self.numeric and not isinstance(value, bool) and math.isfinite(number):
            if 0.0 < number <= 100.0 and (text.endswith("%") or (percent and number >= LEAST_PERCENT)):
                return f"did you mean {number / 100:g}?"
            if not percent:
                return f"{what}: {number:g}, without quotes"
        return f"such as {what}: {self.example()}"

    def received(self, values: Sequence[Any], merged: Sequence[str]) -> Any:
        """Checked values, one for each model where it is per model, as the method receives them.

        Numbers by model are float64 (k,); a task is its index among the merged models. Raises RecipeError.
        """
        values = [self._index(value, merged) for value in values] if self.kind == "task" else values
        if not self.per_model:
            return values[0]
        if not (self.numeric or self.kind == "int") or None in values:
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
