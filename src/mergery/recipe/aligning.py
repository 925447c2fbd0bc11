"""`align`: models of a recipe that are brought into the coordinates of another before they are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mergery.errors import Where, did_you_mean
from mergery.recipe.reader import RecipeReader

METHODS = ("weights", "activations")
KINDS = ("residual", "mlp", "heads", "qk", "vo", "experts")
"""The kinds of spaces: channels of the residual stream, neurons, heads, matrices of queries with keys, of values with outputs,
and experts."""
MEAN = "mean"
"""The word for the mean of the other models, in place of one of them."""
ROTATION = "rotation"
"""In place of an order of channels, a rotation of the residual stream, which norms without gains do not see."""
KEYS = ("to", "method", "spaces", "models", "data", "samples", "length")
SAMPLES, LENGTH = 64, 256


@dataclass(frozen=True)
class Align:
    """What is aligned, and how.

    to:      the model whose coordinates the others get; or `mean`: each is matched to the mean of the others, in turns, and the
             first stays as it is.
    method:  by what units are matched: `weights`, or `activations` on data.
    spaces:  the kinds of spaces that are aligned.
    models:  those that are; empty: all stored models that are merged.
    data:    for activations: texts, as in `calibration`; the first so many `samples`, each of `length` tokens at most.
    """

    to: str
    method: str = METHODS[0]
    spaces: tuple[str, ...] = KINDS
    models: tuple[str, ...] = ()
    data: str = ""
    samples: int = SAMPLES
    length: int = LENGTH
    place: Where | None = field(default=None, compare=False)

    def plain(self) -> Any:
        """What is said, as plain data."""
        said = {
            "method": self.method if self.method != METHODS[0] else None,
            "spaces": list(self.spaces) if self.spaces != KINDS else None,
            "models": list(self.models),
            "data": self.data,
            "samples": self.samples if self.samples != SAMPLES else None,
            "length": self.length if self.length != LENGTH else None,
        }
        more = {key: value for key, value in said.items() if value}
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
    if method == "activations" and not text:
        why = "they are compared on texts"
        reader.fail(
            "activations need data", path, why=why, hint="align: {to: base, method: activations, data: texts.jsonl}"
        )
    if centre and (method != METHODS[0] or ROTATION in spaces):
        hint = "align: {to: mean}, or to: a model's name"
        reader.fail("a mean is matched by weights, and without rotation", path, hint=hint)
    if method == "activations" and ROTATION in spaces:
        reader.fail("a rotation is found by weights", (*path, "method"), hint="method: weights, or spaces: [residual]")
    if method == "weights" and text:
        hint = "leave out data, or method: activations"
        reader.fail("weights are matched without data", (*path, "data"), hint=hint)
    own = (tuple(each for each in (*KINDS, ROTATION) if each in spaces) or KINDS, tuple(named), str(text))
    return Align(
        said["to"], str(method), *own, numbers["samples"], numbers["length"], reader.document.where(path, key=True)
    )


def align_schema() -> dict[str, Any]:
    """`align`, for editors."""
    text = {"type": "string", "minLength": 1}
    said = {
        "to": {**text, "description": "The model whose coordinates the others get."},
        "method": {"enum": list(METHODS), "default": METHODS[0]},
        "spaces": {"type": "array", "items": {"enum": [*KINDS, ROTATION]}, "minItems": 1},
        "models": {"type": "array", "items": text, "description": "Those that are aligned; all where nothing is said."},
        "data": {**text, "description": "Texts, for activations."},
        "samples": {"type": "integer", "minimum": 2, "default": SAMPLES},
        "length": {"type": "integer", "minimum": 2, "default": LENGTH},
    }
    mapping = {"type": "object", "properties": said, "additionalProperties": False, "required": ["to"]}
    return {
        "description": "Models that are brought into the coordinates of another before they are merged.",
        "if": {"type": "string"},
        "then": {"minLength": 1},
        "else": mapping,
    }
