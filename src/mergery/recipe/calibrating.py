"""`calibration` and `refine`: data that a recipe brings, and what is done to its merge with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mergery.errors import RecipeError, Where, did_you_mean
from mergery.recipe.reader import RecipeReader

SAMPLES, LENGTH = 256, 512
LABELS = ("sampled", "empirical", "exact")
SYNTHETIC = "synthetic"
"""The word for the model's own samples in place of a file."""


@dataclass(frozen=True)
class Calibration:
    """Data for statistics and for refining.

    data:    a file for all models, or one for each by name: task files (.jsonl), plain text, `datasets:NAME`, or `synthetic`.
    samples: the first so many items; how many are drawn, where they are synthetic.
    length:  tokens of a row at most.
    labels:  of Fisher information: see `mergery calibrate`.
    """

    data: str | Mapping[str, str]
    samples: int = SAMPLES
    length: int = LENGTH
    labels: str = LABELS[0]
    place: Where | None = field(default=None, compare=False)

    def of(self, model: str) -> str | None:
        """The data of a model; None where it has none."""
        return self.data if isinstance(self.data, str) else self.data.get(model)

    def plain(self) -> dict[str, Any]:
        """What is said of the data, as plain data."""
        own = {"samples": (self.samples, SAMPLES), "length": (self.length, LENGTH), "labels": (self.labels, LABELS[0])}
        data = self.data if isinstance(self.data, str) else dict(self.data)
        return {"data": data, **{key: value for key, (value, usual) in own.items() if value != usual}}


@dataclass(frozen=True)
class Refiner:
    """A way to refine a merge with data: its settings with their defaults and limits, and what it does in a sentence."""

    title: str
    summary: str
    settings: Mapping[str, tuple[float, float, float | None]]  # default, least, most
    needs_base: bool = False


REFINERS: Mapping[str, Refiner] = {
    "featcal": Refiner(
        "FeatCal",
        "Solve each block for the features of the models, block by block behind the merge's own prefix, with a ridge towards "
        "an extrapolated merge (arXiv 2605.13030).",
        {"towards": (0.3, 0.0, 1.0), "anchor": (2.0, 0.0, None), "ridge": (0.05, 0.0, None)},
        needs_base=True,
    ),
    "aim": Refiner(
        "AIM",
        "Take back what the merge has changed where the base's inputs are large (arXiv 2502.02421).",
        {"keep": (0.4, 0.0, 1.0)},
        needs_base=True,
    ),
    "prodistill": Refiner(
        "ProDistill",
        "Learn a coefficient for each number of each task vector, block by block, until each answers its models' texts as they "
        "do (arXiv 2502.12706).",
        {"rate": (0.1, 0.0, None), "epochs": (100.0, 0.0, None)},
        needs_base=True,
    ),
    "regmean_plus": Refiner(
        "RegMean++",
        "Least squares as RegMean, on the inputs that models' blocks get behind the merge's (arXiv 2508.03121).",
        {"off_diagonal": (0.9, 0.0, 1.0)},
    ),
}


@dataclass(frozen=True)
class Refine:
    """What is done to the merge once it is planned, with the data of `calibration`."""

    method: str
    settings: Mapping[str, float] = field(default_factory=dict)  # those that are given
    place: Where | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> float:
        return self.settings.get(name, REFINERS[self.method].settings[name][0])

    def plain(self) -> Any:
        """The stage as plain data."""
        return {"method": self.method, **self.settings} if self.settings else self.method


def read_calibration(reader: RecipeReader, data: Any, models: Mapping[str, Any]) -> Calibration | None:
    """`calibration`."""
    path = ("calibration",)
    if data is None:
        return None
    if not isinstance(data, dict) or "data" not in data:
        hint = "calibration: {data: texts.jsonl, samples: 64}, or data: {math: quiz.jsonl, code: facts.jsonl}"
        reader.fail("calibration names its data", path, hint=hint)
        return None
    reader.only(data, path, ("data", "samples", "length", "labels"))
    files = data["data"]
    if isinstance(files, dict):
        for name, file in files.items():
            if reader.name(name, (*path, "data", name), models) and not isinstance(file, str):
                reader.fail(f"the data of {name!r} is {file!r}", (*path, "data", name), hint=f"{name}: texts.jsonl")
    elif not isinstance(files, str) or not files:
        reader.fail(f"data is {files!r}", (*path, "data"), why="it must be a file", hint="data: texts.jsonl")
    numbers = {"samples": (SAMPLES, 1), "length": (LENGTH, 2)}
    for key, (usual, least) in numbers.items():
        value = data.get(key, usual)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            why = f"it must be a whole number, {least} or more"
            reader.fail(f"{key} is {value!r}", (*path, key), why=why, hint=f"{key}: {usual}")
    labels = data.get("labels", LABELS[0])
    if labels not in LABELS:
        reader.fail(f"unknown labels {labels!r}", (*path, "labels"), hint=did_you_mean(str(labels), LABELS))
    given = (data.get("samples", SAMPLES), data.get("length", LENGTH), labels, reader.document.where(path, key=True))
    return Calibration(files if isinstance(files, str) else dict(files) if isinstance(files, dict) else "", *given)


def read_refine(
    reader: RecipeReader,
    data: Any,
    calibration: Calibration | None,
    models: Mapping[str, Any],
    merge: Any,
) -> Refine | None:
    """`refine`."""
    path = ("refine",)
    if data is None:
        return None
    said = {"method": data} if isinstance(data, str) else data
    if not isinstance(said, dict) or not isinstance(said.get("method"), str):
        reader.fail("refine names a method", path, hint=f"refine: {next(iter(REFINERS))}")
        return None
    refiner = REFINERS.get(said["method"])
    if refiner is None:
        hint = did_you_mean(said["method"], REFINERS)
        reader.fail(f"no method of refining is called {said['method']!r}", path, hint=hint)
        return None
    settings: dict[str, float] = {}
    for name, value in said.items():
        if name == "method":
            continue
        try:
            settings[name] = checked(said["method"], name, value)
        except RecipeError as error:
            reader.keep(error, (*path, name))
    if calibration is None:
        why = "it fits the merge to its models on data"
        hint = "calibration: {data: {math: quiz.jsonl, code: facts.jsonl}, samples: 64}"
        reader.fail(f"{said['method']} needs 'calibration'", path, key=True, why=why, hint=hint)
    based = merge is None or merge.base or any(getattr(models.get(each), "base", None) for each in merge.names())
    if refiner.needs_base and not based and settings.get("anchor") != 1.0:
        why, hint = "it starts from what the merge has changed", "merge: {base: <a model's name>, …}"
        hint += ", or refine: {method: featcal, anchor: 1}" if said["method"] == "featcal" else ""
        reader.fail(f"{said['method']} needs a base", path, why=why, hint=hint)
    return Refine(said["method"], settings, reader.document.where(path, key=True))


def checked(method: str, name: str, value: Any) -> float:
    """A setting of a refiner. Raises RecipeError."""
    settings = REFINERS[method].settings
    if name not in settings:
        raise RecipeError(f"{method} has no setting {name!r}", hint=did_you_mean(name, settings))
    usual, least, most = settings[name]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not least <= value <= (most if most is not None else value):
        why = f"it must be from {least:g} to {most:g}" if most is not None else f"it must be {least:g} or more"
        raise RecipeError(f"{name} is {value!r}", why=why, hint=f"{name}: {usual:g}")
    return float(value)


def calibration_schema() -> dict[str, Any]:
    """`calibration`, for editors."""
    data = {
        "if": {"type": "string"},
        "then": {"minLength": 1},
        "else": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    said = {
        "data": {"description": "A file for all models, or one for each by name.", **data},
        "samples": {"type": "integer", "minimum": 1, "default": SAMPLES},
        "length": {"type": "integer", "minimum": 2, "default": LENGTH},
        "labels": {"enum": list(LABELS), "default": LABELS[0]},
    }
    mapping = {"type": "object", "additionalProperties": False, "required": ["data"], "properties": said}
    return {"description": "Data for methods that look at it.", **mapping}
