"""Learning the weights of a recipe: from the recipe and data to a recipe with a weight for each model and tensor."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mergery.calibration.learning.additions import Additions, gather, nbytes
from mergery.calibration.learning.data import read_sources
from mergery.calibration.learning.descent import Descent, descend, mean_loss
from mergery.calibration.learning.host import Host, open_host, weighted
from mergery.calibration.learning.model import WholeModel, heads, whole
from mergery.calibration.learning.objectives import Answering, Reading, Source
from mergery.calibration.learning.options import LearnOptions
from mergery.calibration.learning.reading import bases
from mergery.calibration.learning.teachers import with_teachers
from mergery.calibration.learning.weights import Weights, begin
from mergery.calibration.learning.writing import write
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import open_model
from mergery.calibration.running import task_of
from mergery.errors import PlanError, size
from mergery.evaluation.loading import check_transformers, quiet
from mergery.evaluation.running import torch_threads
from mergery.run.estimate import machine_memory
from mergery.run.events import Learned, Learning, Notify, Sized, ignore
from mergery.run.output import ROOM, check_writable, write_at_once

STATE = "state.json"


def learn(
    recipe: Any,
    data: Mapping[str, str | Path] | str | Path,
    out: str | Path,
    *,
    options: LearnOptions = LearnOptions(),
    tokenizer: Any = None,
    on_event: Notify = ignore,
) -> Path:
    """Learn a recipe's weights, and write the recipe with them. See `mergery.api.learn`."""
    check_transformers("learning")
    place = Path(out).expanduser()
    work = place.with_name(place.name + ".learning")
    if place.exists():
        if (work / STATE).exists():  # of a run that was killed when all was done
            shutil.rmtree(work)
        raise PlanError(f"the output {str(place)!r} is already there", hint="choose another file")
    check_writable(place)
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(open_host(recipe))
        folder = stack.enter_context(open_model(host.recipe)).folder  # with the merge's tokenizer
        stack.enter_context(quiet())
        model = StreamedModel(host.plan.view)
        task = task_of(model)
        sources = read_sources(host, model, data, folder, options, tokenizer, task)
        mark = _mark(host, sources, options)
        _check_memory(model)
        _check_space(work, nbytes(host))
        _begin(work, mark)
        with torch_threads(options.threads):
            found, before, after = _learn(host, model, sources, work, options, task, on_event)
        said = {
            "objective": options.objective,
            "by": options.by,
            "steps": options.steps,
            "seed": options.seed,
            "data": {each.model or "all": len(each.rows) for each in sources},
            "loss": [float(f"{value:.6g}") for value in (before, after)],
        }
        learned = weighted(host.recipe, found.settings(host.models))
        write(learned, place, said)
        shutil.rmtree(work)
        on_event(Learned(place, options.objective, options.steps, before, after))
    return place


def _learn(
    host: Host,
    model: StreamedModel,
    sources: Sequence[Source],
    work: Path,
    options: LearnOptions,
    task: str,
    notify: Notify,
) -> tuple[Weights, float, float]:
    """The weights that are found, and the loss on all data before and after."""
    additions = gather(host, work, lambda done, total: notify(Learning("reading the models", done, total, None)))
    merged = whole(model)
    apart: frozenset[str] = frozenset()
    if any(source.heads for source in sources):
        apart = frozenset(heads(model).values())
    tensors = merged.learnable(additions, apart)
    wanted = options.range or ("shares" if host.averages else "unit" if options.objective == "entropy" else "free")
    start = host.begin if options.start is None else {}
    first = np.full(len(host.models), options.start if options.start is not None else 1.0)
    own = {name: start.get(name, first) for name in additions.moved}
    weights = begin(len(host.models), list(additions.moved), host.plan.view.architecture, options.by, wanted, own)
    if options.objective == "nsc":
        objective: Any = Reading(bases(host, model, additions, options.rank))
    else:
        objective = Answering(task, options.objective)  # type: ignore[arg-type]
        if options.objective == "distill":
            sources = with_teachers(host, merged, sources, objective, work)
    return run(merged, additions, weights, tensors, sources, objective, options, work, notify)


def run(
    merged: WholeModel,
    additions: Additions,
    weights: Weights,
    tensors: frozenset[str],
    sources: Sequence[Source],
    objective: Any,
    options: LearnOptions,
    work: Path | None,
    notify: Notify,
) -> tuple[Weights, float, float]:
    """Take all steps; what a run that was killed has done is not done again."""
    descent = Descent(weights, work)
    disk = sum(row.nbytes for row in additions.rows)
    notify(Sized(weights.free.size, 2 * merged.nbytes, disk, weights.step))
    if descent.before is None:
        merged.write(additions, weights)
        descent.before = mean_loss(merged, sources, objective)
    descend(merged, additions, descent, tensors, sources, objective, options, notify)
    merged.write(additions, weights)
    return weights, descent.before, mean_loss(merged, sources, objective)


def _mark(host: Host, sources: Sequence[Source], options: LearnOptions) -> str:
    """What tells one run from others: plans, data, options."""
    rows = hashlib.sha256(repr([(source.model, source.rows) for source in sources]).encode()).hexdigest()
    digests = [plan.digest for plan in (host.plan, host.nothing, *host.units)]
    return json.dumps({"plans": digests, "data": rows, "options": options.plain()}, sort_keys=True) + "\n"


def _begin(work: Path, mark: str) -> None:
    """The folder of an unfinished run: a new one, or that of an earlier run of the same."""
    kept = work / STATE
    if work.exists():
        if not kept.exists():
            raise PlanError(f"{str(work)!r} stands in the way", hint="rename it, or choose another file")
        if kept.read_text() == mark:
            return
        shutil.rmtree(work)
    work.mkdir(parents=True)
    write_at_once(kept, mark)


def _check_memory(model: StreamedModel) -> None:
    """Raise PlanError where the machine cannot hold the merge and its gradient."""
    need = 2 * 4 * sum(node.elements for node in {id(node): node for node in model.nodes.values()}.values())
    have = machine_memory()
    if need > have:
        what = f"learning needs {size(need)} of memory, and this machine has {size(have)}"
        why = "the merge and its gradient are in memory as a whole, in float32"
        hint = "refine: featcal, or prodistill, in the recipe: they hold one block at a time"
        raise PlanError(what, why=why, hint=hint)


def _check_space(work: Path, wanted: int) -> None:
    place = work
    while not place.exists():
        place = place.parent
    have = sum(path.stat().st_blocks * 512 for path in work.iterdir()) if work.exists() else 0
    free = shutil.disk_usage(place).free + have
    if free < wanted + ROOM:
        why = f"what each model adds is kept in files: {size(wanted + ROOM)} are needed and {size(free)} are free"
        raise PlanError(f"the disk is too small to learn in {str(work.parent)!r}", why=why, hint="choose another disk")
