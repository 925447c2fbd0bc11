"""`refine` of a recipe: its merge, fitted to its models on data, block by block, as a plan that a run can carry out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mergery.calibration.counting import limit_of
from mergery.calibration.data import Texts, inputs_of
from mergery.calibration.demand import base_of, taught_by
from mergery.calibration.learning.distilling import Distiller
from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.opening import folder_with, merged_statistics, stored_view
from mergery.calibration.passes import Shelf
from mergery.calibration.replacing import as_stored, begin_work, digest_with, with_replaced, write_arrays
from mergery.calibration.running import task_of
from mergery.calibration.sequential.aim import take_back
from mergery.calibration.sequential.fitters import FeatCal, RegMeanPlus
from mergery.calibration.sequential.lockstep import BlockFitter, Fitter, Lockstep, Teacher
from mergery.calibration.sources import texts_of
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.statistics import model_mark
from mergery.errors import CheckpointError, PlanError, RecipeError, Where
from mergery.evaluation.loading import check_transformers, quiet, tokenizer_of
from mergery.evaluation.running import torch_threads
from mergery.planning.measurements import statistics_of
from mergery.planning.plan import Plan
from mergery.recipe.calibrating import REFINERS, Refine
from mergery.report.files import side_files
from mergery.run.events import Notify, Visited

MARK = "refine.json"


def refined_plan(
    stack: ExitStack, plan: Plan, work: Path, threads: int, notify: Notify, there: Callable[[Plan], bool]
) -> Plan:
    """The plan of a recipe with `refine`, with fitted tensors in place of merged ones; files open as long as the stack.

    work: a folder for the fitted tensors. What an interrupted run of the same refinement left there is taken up; it is to be
    removed when the merge is written. there: whether the output of the plan, given with its digest, exists; then nothing is
    fitted. Raises MergeryError, before any work where something is wrong.
    """
    check_transformers("refining")
    recipe, refine, calibration = plan.recipe, plan.recipe.refine, plan.recipe.calibration
    assert refine is not None and calibration is not None
    if plan.only or plan.adapter is not None:
        what, why = "a part of a model, or an adapter, is not refined", "all of it is run, block by block"
        raise PlanError(what, why=why, hint="leave out --only and output: {adapter: …}, or leave out refine")
    for checkpoint in plan.checkpoints.values():
        checkpoint.prepare()
    stack.enter_context(quiet())
    merged = StreamedModel(plan.view)
    alone = refine.method == "aim"  # no models but the base are run
    names = [] if alone else [name for name in taught_by(recipe) if calibration.of(name) is not None]
    models = {name: StreamedModel(stored_view(plan.checkpoints[name])) for name in names}
    base_name = base_of(recipe)
    base = (
        StreamedModel(stored_view(plan.checkpoints[base_name])) if base_name and base_name in plan.checkpoints else None
    )
    for name, model in [*models.items(), *([(base_name, base)] if base is not None else [])]:
        _check(str(name), model, merged)
    texts = _texts(stack, plan, merged, models)
    pair = task_of(merged) == "pairs"
    teachers = [Teacher(name, models[name], _passes(texts[name], pair)) for name in names]
    told = [
        refine.plain(),
        {"models": {name: model_mark(plan.checkpoints[name]) for name in names}},
        {"data": {name: [texts[name].sha256, len(texts[name].rows), texts[name].tokens] for name in names}},
        calibration.plain(),
    ]
    known = replace(plan, digest=digest_with(plan, told), before=())
    if there(known):
        return known
    begin_work(work, MARK, [plan.digest, *told])
    few: Iterator[str] = iter(())
    with torch_threads(threads):
        shared = merged_statistics(plan)
        if alone:
            assert base is not None and base_name is not None
            merged.shared = shared
            take_back(merged, base, plan.checkpoints[statistics_of(base_name)], refine["keep"], work, notify)
        else:
            merged.prepare(shared)
            for model in models.values():
                model.prepare(type(shared)())
            fitter = _fitter(refine, merged, len(names), base)
            few = _fit(merged, teachers, fitter, work, sum(text.tokens for text in texts.values()), notify)
    title = REFINERS[refine.method].title
    if alone:
        note = f"refined by {title} on what {base_name} rests on: {{count}} tensors"
        return with_replaced(stack, plan, sorted(work.glob("*.safetensors")), told, note)
    items = sum(len(text.rows) for text in texts.values())
    note = f"refined by {title} on {items} texts of {', '.join(names)}: {{count}} tensors"
    planned = with_replaced(stack, plan, sorted(work.glob("*.safetensors")), told, note)
    return replace(planned, warnings=(*planned.warnings, *few))


def _fitter(refine: Refine, merged: StreamedModel, count: int, base: StreamedModel | None) -> Any:
    if refine.method == "featcal":
        return FeatCal(merged, count, base, **{name: refine[name] for name in ("towards", "anchor", "ridge")})
    if refine.method == "prodistill":
        if base is None:
            what, hint = "the base is made by a merge of the recipe", "write it to a folder first"
            raise RecipeError(what, where=refine.place, hint=hint)
        return Distiller(base, refine["rate"], int(refine["epochs"]))
    return RegMeanPlus(merged, count, refine["off_diagonal"])


def _check(name: str, model: StreamedModel, merged: StreamedModel) -> None:
    """Refuse models whose blocks cannot stand beside the merge's."""
    wrong = [
        each for each, node in merged.nodes.items() if each not in model.nodes or model.nodes[each].shape != node.shape
    ]
    if wrong:
        what = f"{name!r} has no {wrong[0]!r} of the merge's shape"
        raise CheckpointError(
            what, why="blocks are fitted side by side", hint="leave out refine, or its data for this model"
        )


def _texts(
    stack: ExitStack, plan: Plan, merged: StreamedModel, models: Mapping[str, StreamedModel]
) -> dict[str, Texts]:
    """The data of each model in tokens of the merge's tokenizer. Raises MergeryError."""
    calibration = plan.recipe.calibration
    assert calibration is not None
    words = tokenizer_of(None, stack.enter_context(folder_with(side_files(plan))))
    longest = min(calibration.length, limit_of(merged.config))
    rows = merged.module.get_input_embeddings().weight.shape[0]
    found: dict[str, Texts] = {}
    for name in models:
        found[name] = texts_of(
            str(calibration.of(name)), plan.recipe.folder, models[name], words,
            longest=longest, limit=calibration.samples, pair=task_of(merged) == "pairs", seed=plan.recipe.seed,
        )  # fmt: skip
        largest = max(max(row.tokens) for row in found[name].rows)
        if largest >= rows:
            why, hint = (
                f"a text has the token {largest}, and the model has {rows} rows",
                "output: {tokenizer: <a model>}",
            )
            raise CheckpointError("the tokenizer is not the model's", where=Where(found[name].file), why=why, hint=hint)
    return found


def _passes(texts: Texts, pair: bool) -> list[Any]:
    def one(rows: Any) -> Any:
        return lambda model: model.module(**inputs_of(rows, model.config))

    return [one(rows) for rows in texts.batches(pair)]


def _fit(
    merged: StreamedModel, teachers: list[Teacher], fitter: Any, work: Path, tokens: int, notify: Notify
) -> Iterator[str]:
    """Fit all blocks into files; and what is to be known of the data."""
    text = getattr(merged.config, "text_config", None) or merged.config
    width = int(getattr(text, "hidden_size", 0) or getattr(text, "d_model", 0) or 1)
    shelf = Shelf(work, 4 * tokens * width * 4)
    places = {unit.name: number for number, unit in enumerate(merged.units, 1)}

    def file(unit: Unit) -> Path:
        return work / f"{places[unit.name]:05d}.safetensors"

    def kept(unit: Unit) -> dict[str, Any] | None:
        return _read(file(unit), merged, unit) if file(unit).exists() else {} if _nothing(file(unit)).exists() else None

    def told(unit: Unit, weights: Mapping[str, Any], changed: Iterable[str]) -> None:
        arrays = as_stored(merged, weights, changed)
        if arrays:
            write_arrays(file(unit), arrays, {})
        else:
            _nothing(file(unit)).touch()

    def visited(unit: Unit) -> None:
        notify(Visited(unit.name, places[unit.name], len(places)))

    checked: Fitter | BlockFitter = fitter
    Lockstep(merged, teachers, shelf).run(checked, kept=kept, told=told, visited=visited)
    if isinstance(fitter, BlockFitter):
        return iter(())
    few = {name: known for name, known in fitter.tokens.items() if known[0] < known[1]}
    if not few:
        return iter(())
    worst = max(few, key=lambda name: few[name][1] / max(1, few[name][0]))
    return iter(
        [
            f"the data are few: {len(few)} weights have seen fewer tokens than they have inputs, such as {worst!r} with "
            f"{few[worst][0]} tokens and {few[worst][1]} inputs; the ridge, or shrinkage, decides what these do not"
        ]
    )


def _nothing(file: Path) -> Path:
    """Stands for the file of a unit of which nothing is fitted."""
    return file.with_suffix(".nothing")


def _read(path: Path, merged: StreamedModel, unit: Unit) -> dict[str, Any]:
    """The weights of a unit's parameters that an earlier run has fitted."""
    import torch

    found: dict[str, Any] = {}
    with open_checkpoint(path) as checkpoint:
        arrays: dict[str, np.ndarray] = {}
        for name, info in checkpoint.tensors.items():
            arrays[name] = np.empty(info.elements, np.float32)
            checkpoint.read(name, 0, info.elements, arrays[name].view(np.uint8))
        for _, _, parameter in unit.parameters:
            pieces = merged.stored(parameter)
            if pieces and all(piece[0] in arrays for piece in pieces):
                values = np.concatenate([arrays[tensor][start : start + length] for tensor, start, _, length in pieces])
                found[parameter] = torch.from_numpy(values).reshape(merged.nodes[parameter].shape)
    return found
