"""Statistics that a recipe's methods need and its `calibration` gives the data for: made before the merge, and kept.

They are kept under a hash of all that they are made of, so that a second merge of the same models finds them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mergery.architecture import read_architecture
from mergery.architecture.fused import transposed
from mergery.calibration.options import CalibrationOptions
from mergery.calibration.sources import mark_of
from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.file_kinds import is_tokenizer_file
from mergery.checkpoints.renamed import RenamedCheckpoint
from mergery.checkpoints.statistics import FILE, Shared, Statistics, model_mark
from mergery.dtypes import F32
from mergery.errors import RecipeError
from mergery.method import find
from mergery.planning.opening import open_all
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe, Source
from mergery.recipe.calibrating import REFINERS, SAMPLES
from mergery.recipe.recipe import Merge
from mergery.report.words import about
from mergery.run.events import Notify

MADE = 1  # raised when statistics of the same model and data would be others
RATE = 2.0e10  # operations a second of an ordinary machine, in float32: an estimate is to tell minutes from hours
MANY = 1 << 40  # tokens of statistics that are not made yet


@dataclass(frozen=True)
class Wanted:
    """Statistics of one model that have to be there before the merge."""

    model: str
    other: str  # the model whose data they are of, where it is another
    kinds: tuple[str, ...]
    data: str  # as the recipe says it
    folder: Path  # where they are kept
    seconds: float  # that making them is expected to take
    options: CalibrationOptions
    protects: bool = False  # whether they are of the text that the recipe protects

    @property
    def there(self) -> bool:
        """Whether an earlier merge has made them."""
        return (self.folder / FILE).exists()

    def words(self) -> str:
        """What is going to be done, or has been."""
        on = f"{self.options.limit} items of {self.data}" if self.options.limit else self.data
        on = f"the protected text, {on}" if self.protects else on
        of = f"{self.model} for {self.other}" if self.other else self.model
        what = f"statistics of {of} ({', '.join(self.kinds)}) on {on}"
        if self.there:
            return f"{what} are there, in {self.folder}"
        return f"{what} are made first, {about(self.seconds)} at most, and kept in {self.folder}"


def kept_in() -> Path:
    """The folder in which statistics are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergery" / "statistics"


def kinds_wanted(recipe: Recipe) -> dict[tuple[str, str], tuple[str, ...]]:
    """The statistics that the methods of a recipe ask for, of each stored model that names none; of a base, on the data of
    each model.
    """
    found: dict[tuple[str, str], dict[str, None]] = {}

    def ask(method: str | None, merge: Merge) -> None:
        for each in find(method).statistics if method else ():
            for name in merge.names():
                of = (merge.base or "", name) if each.of_base else (name, "")
                source = recipe.models.get(of[0])
                if name != merge.base and isinstance(source, Source) and source.statistics is None:
                    found.setdefault(of, {})[each.statistic] = None

    for merge in (recipe.merge, *(model for model in recipe.models.values() if isinstance(model, Merge))):
        for method in (
            merge.method,
            merge.rest.method if merge.rest else None,
            *(each.method for each in merge.overrides),
        ):
            ask(method, merge)
    base = recipe.models.get(base_of(recipe) or "")
    if (
        recipe.refine is not None
        and recipe.refine.method == "aim"
        and isinstance(base, Source)
        and base.statistics is None
    ):
        found.setdefault((str(base_of(recipe)), ""), {})["activation"] = None
    return {of: tuple(sorted(kinds)) for of, kinds in found.items()}


def wanted(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> list[Wanted]:
    """What has to be there before the merge. Raises RecipeError where data are missing."""
    found = _protected(recipe, checkpoints)
    calibration = recipe.calibration
    if calibration is None:
        return found
    for (name, other), kinds in kinds_wanted(recipe).items():
        data = calibration.of(other or name)
        if data is None:
            hint = f"calibration: {{data: {{{other or name}: texts.jsonl}}}}, or one file for all"
            raise RecipeError(f"calibration has no data of {other or name!r}", where=calibration.place, hint=hint)
        options = CalibrationOptions(kinds, calibration.samples, calibration.length, calibration.labels, recipe.seed)
        mark = mark_of(data, recipe.folder, calibration.place)
        found.append(replace(_wanted(name, checkpoints[name], data, mark, options), other=other))
    return found


def _wanted(name: str, model: Checkpoint, data: str, mark: Any, options: CalibrationOptions) -> Wanted:
    """Statistics of a model, and where they are kept: under a hash of all that they are made of."""
    checkpoint = _plain(model)
    words = {file: checkpoint.file(file) for file in sorted(checkpoint.files) if is_tokenizer_file(file)}
    facts = [
        MADE, options.stats, model_mark(checkpoint), mark, options.limit, options.longest, options.labels, options.seed,
        {file: hashlib.sha256(content).hexdigest() for file, content in words.items()},
        *([options.tokens] if options.tokens else []),
    ]  # fmt: skip
    key = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:20]
    tokens = (options.limit or SAMPLES) * options.longest
    seconds = _seconds(checkpoint, options.stats, tokens)
    return Wanted(name, "", options.stats, data, kept_in() / key, seconds, options)


def _protected(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> list[Wanted]:
    """Statistics of the text that a recipe protects, where they have not been measured by themselves."""
    said = recipe.protect
    if said is None or said.statistics or not isinstance(recipe.models.get(said.model), Source):
        return []  # planning says why a merge of the recipe cannot be protected
    options = CalibrationOptions(("gram",), tokens=said.tokens)
    mark = mark_of(said.data, recipe.folder, said.place)
    return [replace(_wanted(said.model, checkpoints[said.model], said.data, mark, options), protects=True)]


def _plain(checkpoint: Checkpoint) -> Checkpoint:
    """A model under its own names."""
    return checkpoint.stored if isinstance(checkpoint, RenamedCheckpoint) else checkpoint


def _seconds(checkpoint: Checkpoint, kinds: tuple[str, ...], tokens: int) -> float:
    """What statistics may take: products with all weights, and of all inputs with themselves; thrice that for gradients."""
    size = sum(info.elements for info in checkpoint.tensors.values() if len(info.shape) >= 2)
    grams = sum(
        info.shape[-1] ** 2
        for info in checkpoint.tensors.values()
        if len(info.shape) == 2 and max(info.shape) < 1 << 15
    )
    once = 2.0 * tokens * (size + (grams if "gram" in kinds else 0.0))
    return (once + (6.0 * tokens * size if "fisher" in kinds else 0.0)) / RATE


def taught_by(recipe: Recipe) -> tuple[str, ...]:
    """The stored models that a recipe merges, at whatever depth, but for the bases."""
    found: dict[str, None] = {}

    def visit(merge: Merge) -> None:
        for name in merge.names():
            model = recipe.models.get(name)
            if name == merge.base:
                continue
            if isinstance(model, Merge):
                visit(model)
            elif isinstance(model, Source):
                found[name] = None

    visit(recipe.merge)
    return tuple(found)


def base_of(recipe: Recipe) -> str | None:
    """The base of a recipe's merge, or of the first merge below it that has one."""
    below = (model for name in recipe.merge.names() if isinstance(model := recipe.models.get(name), Merge))
    return recipe.merge.base or next((merge.base for merge in below if merge.base), None)


def refining_words(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> tuple[str, ...]:
    """What refining the merge will be, and take. Raises RecipeError where its data cannot be read."""
    refine, calibration = recipe.refine, recipe.calibration
    if refine is None or calibration is None:
        return ()
    title = REFINERS[refine.method].title
    if refine.method == "aim":
        return (f"the merge is refined by {title} before it is written",)
    names = [name for name in taught_by(recipe) if calibration.of(name) is not None]
    if not names:
        hint = f"calibration: {{data: {{{taught_by(recipe)[0]}: texts.jsonl}}}}"
        raise RecipeError("no model that is merged has data", where=calibration.place, hint=hint)
    for name in names:
        mark_of(str(calibration.of(name)), recipe.folder, calibration.place)
    tokens = calibration.samples * calibration.length
    seconds = sum(3.0 * _seconds(checkpoints[name], ("gram",), tokens) for name in names)
    samples = f"{calibration.samples} items of data of each of {', '.join(names)}"
    return (f"the merge is refined by {title} before it is written, on {samples}, {about(seconds)} at most",)


def plan_demanding(recipe: Recipe, only: Any = ()) -> Plan:
    """The plan of a recipe with `calibration` or `protect`: where statistics are still to be made, as it will be once they
    are, which `Plan.before` tells. Raises MergeryError.
    """
    checkpoints = open_all(recipe)
    try:
        needs = wanted(recipe, checkpoints)
        models, protect = dict(recipe.models), recipe.protect
        for need in needs:
            given: Any = str(need.folder) if need.there else Pending(_plain(checkpoints[need.model]), need)
            if need.protects and protect is not None:
                protect = protect.measured(given)
                continue
            source = models[need.model]
            assert isinstance(source, Source)
            models[need.model] = source.with_measured({**source.measured, need.other: given})
        refining = refining_words(recipe, checkpoints)
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()
    plan = make_plan(replace(recipe, models=models, protect=protect), only=only)
    words = tuple(need.words() for need in needs)
    waiting = tuple(text for need, text in zip(needs, words, strict=True) if not need.there)
    return replace(plan, notes=(*words, *refining, *plan.notes), before=(*waiting, *refining))


def pending(plan: Plan) -> list[Wanted]:
    """The statistics that a plan still waits for."""
    found = [checkpoint.need for checkpoint in plan.checkpoints.values() if isinstance(checkpoint, Pending)]
    return list({need.folder: need for need in found}.values())


def fulfilled(plan: Plan, threads: int, notify: Notify) -> Plan:
    """Make the statistics that a plan waits for, and the plan with them. The given plan is closed."""
    from mergery.calibration.opening import opened_checkpoint
    from mergery.calibration.running import measure

    recipe, needs = plan.recipe, pending(plan)
    if not needs:
        return plan
    for need in needs:
        options = replace(need.options, threads=threads)
        need.folder.parent.mkdir(parents=True, exist_ok=True)
        with opened_checkpoint(_plain(plan.checkpoints[need.model])) as opened:
            measure(opened, need.data, need.folder, options=options, folder=recipe.folder, on_event=notify)
    plan.close()
    models = dict(recipe.models)
    for name, source in models.items():
        if isinstance(source, Source) and source.measured:
            models[name] = source.with_measured({other: _folder(each) for other, each in source.measured.items()})
    protect = recipe.protect
    if protect is not None and isinstance(protect.statistics, Pending):
        protect = protect.measured(_folder(protect.statistics))
    return make_plan(replace(recipe, models=models, protect=protect), only=plan.only)


def _folder(statistics: Any) -> Any:
    """Where statistics are, once they are made."""
    return str(statistics.need.folder) if isinstance(statistics, Pending) else statistics


def waits(recipe: Recipe) -> bool:
    """Whether something may have to be measured before a recipe's merge."""
    return recipe.calibration is not None or (recipe.protect is not None and not recipe.protect.statistics)


def plan_measured(recipe: Recipe, threads: int, notify: Notify) -> Plan:
    """The plan of a recipe, once all is measured that its merge asks for. Raises MergeryError."""
    return fulfilled(plan_demanding(recipe), threads, notify) if waits(recipe) else make_plan(recipe)


class Pending(Checkpoint):
    """Statistics that are not made yet: their names and shapes."""

    def __init__(self, model: Checkpoint, need: Wanted) -> None:
        self.need, self.label, self.location = need, f"statistics of {need.model}", str(need.folder)
        roles = read_architecture(model.tensors.values(), model.config).names
        self._tensors: dict[str, TensorInfo] = {}
        inputs: dict[str, Shared] = {}
        for name, info in model.tensors.items():
            for found in self._of(info, roles[name].roles, model):
                self._tensors[found.name] = found
            if "linear" in roles[name].roles and len(info.shape) in (2, 3):
                inputs[name] = Shared(name, (MANY,) * (info.shape[0] if len(info.shape) == 3 else 1))
        mark = {"name": need.model, **model_mark(model)}
        data = ({"file": need.data, "sha256": "", "examples": 1, "tokens": MANY},)
        self._text = Statistics(need.kinds, mark, data, inputs, only=need.options.tokens).text().encode()

    def _of(self, info: TensorInfo, roles: tuple[str, ...], model: Checkpoint) -> Iterator[TensorInfo]:
        if "fisher" in self.need.kinds:
            yield TensorInfo(f"{info.name}.fisher", info.shape, F32)
        if "linear" not in roles or len(info.shape) not in (2, 3):
            return
        into = info.shape[-2] if transposed(info.name, info.shape, model.config) else info.shape[-1]
        if "gram" in self.need.kinds:
            yield TensorInfo(f"{info.name}.gram", (*info.shape[:-2], into, into), F32)
        if "activation" in self.need.kinds:
            yield TensorInfo(f"{info.name}.activation", (*info.shape[:-2], into), F32)

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def files(self) -> tuple[str, ...]:
        return (FILE,)

    def file(self, name: str) -> bytes:
        """The content of `statistics.json`, as far as it is known."""
        return self._text

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        raise AssertionError(f"{name!r} is not measured yet")

    def fingerprint(self) -> dict[str, Any]:
        """What they will be made of."""
        return {"location": self.location, "to be made": self.need.folder.name}
