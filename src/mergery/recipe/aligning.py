"""`align`: models of a recipe that are brought into the coordinates of another before they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mergery.errors import Where, did_you_mean
from mergery.recipe.reader import RecipeReader
from mergery.recipe.soft import KEYS as SOFT_KEYS
from mergery.recipe.soft import SOFT, ZIP, Soft, read_soft, soft_schema

METHODS = ("weights", "activations", "learned", "straight-through", *SOFT)
LEARNT = {"learned": (400, 0.1), "straight-through": (100, 0.1)}
"""Methods that learn a transform on data, step by step: how many steps they take, and how large, where nothing is said."""
NEEDY = {
    "activations": ("activations need data", "units are compared on texts"),
    ZIP: ("a zip needs data", "activations are compared on texts"),
    **{each: (f"{each} needs data", "the loss in the middle is that of texts") for each in LEARNT},
}
"""Methods that need data, in words, and why."""
KINDS = ("residual", "mlp", "heads", "qk", "vo", "experts")
"""The kinds of spaces: channels of the residual stream, neurons, heads, matrices of queries with keys, of values with outputs,
and experts."""
MEAN = "mean"
"""The word for the mean of the other models, in place of one of them."""
ROTATION = "rotation"
"""In place of an order of channels, a rotation of the residual stream, which norms without gains do not see."""
KEYS = ("to", "method", "spaces", "models", "data", "samples", "length", "steps", "rate", *SOFT_KEYS)
SAMPLES, LENGTH = 64, 256


@dataclass(frozen=True)
class Align:
    """What is aligned, and how.

    to:      the model whose coordinates the others get; or `mean`: each is matched to the mean of the others, in turns, and the
             first stays as it is.
    method:  by what units are matched: `weights`; or on data: `activations`, or the loss in the middle, `learned` by
             matrices or `straight-through` by weights (see `alignment.matching.learning`). Soft maps change what a model
             computes: `transport`, by weights, or by activations where there are data; `zip`, of two models at once, on data.
    spaces:  the kinds of spaces that are aligned.
    models:  those that are; empty: all stored models that are merged.
    data:    for all but weights: texts, as in `calibration`; the first so many `samples`, each of `length` tokens at most. For
             soft maps of a chain of matrices, rows of numbers (.npy).
    steps:   of learning, each on 16 texts, and their `rate`; 0 is the method's own, see `learnt`.
    soft:    how soft maps are found.
    """

    to: str
    method: str = METHODS[0]
    spaces: tuple[str, ...] = KINDS
    models: tuple[str, ...] = ()
    data: str = ""
    samples: int = SAMPLES
    length: int = LENGTH
    steps: int = 0
    rate: float = 0.0
    soft: Soft = field(default_factory=Soft)
    place: Where | None = field(default=None, compare=False)

    @property
    def learnt(self) -> tuple[int, float] | None:
        """How many steps are learnt, and at which rate; None where the method learns nothing."""
        if self.method not in LEARNT:
            return None
        steps, rate = LEARNT[self.method]
        return self.steps or steps, self.rate or rate

    def plain(self) -> Any:
        """What is said, as plain data."""
        said = {
            "method": self.method if self.method != METHODS[0] else None,
            "spaces": list(self.spaces) if self.spaces != KINDS else None,
            "models": list(self.models),
            "data": self.data,
            "samples": self.samples if self.samples != SAMPLES else None,
            "length": self.length if self.length != LENGTH else None,
            "steps": self.steps,
            "rate": self.rate,
            **self.soft.plain(),
        }
        more = {key: value for key, value in said.items() if value or key in SOFT_KEYS}
        return {"to": self.to, **more} if more else self.to


def read_align(reader: RecipeReader, data: Any, models: Mapping[str, Any]) -> Align | None:
    """`align`."""
    path = ("align",)
    if data is None:
        return None
    said = {"to": data} if isinstance(data, str) else data
    if not isinstance(said, dict) or not isinstance(said.get("to"), str):
        reader.fail("align names the model whose coordinates the others get", path, hint="align: base")
        return None
    reader.only(said, path, KEYS)
    centre = said["to"] == MEAN and MEAN not in models
    if not centre:
        reader.name(said["to"], (*path, "to") if isinstance(data, dict) else path, models)
    method = said.get("method", METHODS[0])
    if method not in METHODS:
        reader.fail(f"no way to align is called {method!r}", (*path, "method"), hint=did_you_mean(str(method), METHODS))
    spaces, named = (said.get(key, []) for key in ("spaces", "models"))
    for key, values, known in (("spaces", spaces, KINDS), ("models", named, tuple(models))):
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            reader.fail(f"{key} must be a list", (*path, key), hint=f"{key}: [{known[-1]}]")
            return None
    for index, each in enumerate(spaces):
        if each not in (*KINDS, ROTATION):
            hint = did_you_mean(each, (*KINDS, ROTATION))
            reader.fail(f"no kind of space is called {each!r}", (*path, "spaces", index), hint=hint)
    for index, each in enumerate(named):
        reader.name(each, (*path, "models", index), models)
    numbers: dict[str, Any] = {"samples": said.get("samples", SAMPLES), "length": said.get("length", LENGTH)}
    for key, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 2:
            why = "it must be a whole number, 2 or more"
            reader.fail(f"{key} is {value!r}", (*path, key), why=why, hint=f"{key}: 64")
    text = said.get("data", "")
    if not isinstance(text, str):
        reader.fail(f"data is {text!r}", (*path, "data"), why="it must be a file", hint="data: texts.jsonl")
    if method in NEEDY and not text:
        what, why = NEEDY[str(method)]
        reader.fail(what, path, why=why, hint=f"align: {{to: base, method: {method}, data: texts.jsonl}}")
    steps, rate = _learning(reader, said, str(method), path)
    if centre and (method != METHODS[0] or ROTATION in spaces):
        hint = "align: {to: mean}, or to: a model's name"
        reader.fail("a mean is matched by weights, and without rotation", path, hint=hint)
    if method == "activations" and ROTATION in spaces:
        reader.fail("a rotation is found by weights", (*path, "method"), hint="method: weights, or spaces: [residual]")
    if method == "weights" and text:
        hint = "leave out data, or method: activations"
        reader.fail("weights are matched without data", (*path, "data"), hint=hint)
    soft = read_soft(reader, said, method, path)
    own = (tuple(each for each in (*KINDS, ROTATION) if each in spaces) or KINDS, tuple(named), str(text))
    place = reader.document.where(path, key=True)
    return Align(said["to"], str(method), *own, numbers["samples"], numbers["length"], steps, rate, soft, place)


def _learning(reader: RecipeReader, said: Mapping[str, Any], method: str, path: tuple[str, ...]) -> tuple[int, float]:
    """`steps` and `rate`; 0 where they are not said."""
    steps, rate = said.get("steps"), said.get("rate")
    for name, value in (("steps", steps), ("rate", rate)):
        if value is not None and method not in LEARNT and method in METHODS:
            hint = f"leave out {name}, or method: learned"
            reader.fail(
                f"{name} is of a transform that is learnt", (*path, name), why=f"{method} learns none", hint=hint
            )
    if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
        why = "it must be a whole number, 1 or more"
        reader.fail(f"steps is {steps!r}", (*path, "steps"), why=why, hint=f"steps: {LEARNT['learned'][0]}")
        steps = None
    if rate is not None and (not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 0.0 < rate < 1e3):
        reader.fail(f"rate is {rate!r}", (*path, "rate"), why="it must be a number above zero", hint="rate: 0.1")
        rate = None
    return steps or 0, float(rate or 0.0)


def align_schema() -> dict[str, Any]:
    """`align`, for editors."""
    text = {"type": "string", "minLength": 1}
    said = {
        "to": {**text, "description": "The model whose coordinates the others get."},
        "method": {"enum": list(METHODS), "default": METHODS[0]},
        "spaces": {"type": "array", "items": {"enum": [*KINDS, ROTATION]}, "minItems": 1},
        "models": {"type": "array", "items": text, "description": "Those that are aligned; all where nothing is said."},
        "data": {**text, "description": "Texts, for all methods but weights."},
        "samples": {"type": "integer", "minimum": 2, "default": SAMPLES},
        "length": {"type": "integer", "minimum": 2, "default": LENGTH},
        "steps": {"type": "integer", "minimum": 1, "description": "Of learned and straight-through, each on 16 texts."},
        "rate": {"type": "number", "exclusiveMinimum": 0, "description": "How large their steps are."},
        **soft_schema(),
    }
    mapping = {"type": "object", "properties": said, "additionalProperties": False, "required": ["to"]}
    return {
        "description": "Models that are brought into the coordinates of another before they are merged.",
        "if": {"type": "string"},
        "then": {"minLength": 1},
        "else": mapping,
    }
