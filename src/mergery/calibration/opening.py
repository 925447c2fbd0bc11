"""What can be calibrated, as a view: a folder, a GGUF file, a model of the hub, or a recipe that is never written."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergery.architecture import read_architecture
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.adapted import AdaptedCheckpoint, without_adapters
from mergery.checkpoints.adapters import read_adapter
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.statistics import model_mark
from mergery.engine import Shared
from mergery.errors import CheckpointError, Where, raise_all
from mergery.graph.findings import Findings
from mergery.graph.nodes import Node, Stored
from mergery.graph.view import View
from mergery.kernels.threads import quiet_torch
from mergery.planning.inputs import quantisation
from mergery.planning.opening import on_recorded_base
from mergery.planning.plan import Plan, make_plan
from mergery.recipe import Recipe
from mergery.report.files import side_files
from mergery.run.events import ignore
from mergery.run.workers import Options, Run, wake_kernels
from mergery.views.adapters import adapted_view

RECIPES = (".yaml", ".yml")


@dataclass(frozen=True)
class Opened:
    """A model to run: its view, where its tokenizer lies, and what tells it from others."""

    name: str
    view: View
    folder: Path
    mark: Mapping[str, Any]
    statistics: Callable[[], Shared]  # what its merges ask of whole models, found when it is wanted


@contextmanager
def open_model(source: Any) -> Iterator[Opened]:
    """Open a folder, a hub id, a GGUF file, or a recipe: a YAML file, a mapping or a `Recipe`. Raises MergeryError."""
    if isinstance(source, (Recipe, Mapping)) or Path(str(source)).suffix in RECIPES:
        with _planned(source) as opened:
            yield opened
        return
    with on_recorded_base(open_checkpoint(source), Path()) as checkpoint, opened_checkpoint(checkpoint) as opened:
        yield opened


@contextmanager
def opened_checkpoint(checkpoint: Checkpoint) -> Iterator[Opened]:
    """A stored model, to be run. Raises CheckpointError where it is quantised in a way that is not read."""
    if adapter := read_adapter(checkpoint):
        whole = f"{adapter.base or 'MODEL'}+{checkpoint.location}"
        hint = f"name the model that it was made for before it, with a +: {whole}"
        what, where = "this is an adapter, not a model", Where(checkpoint.location)
        raise CheckpointError(what, where=where, why=adapter.words, hint=hint)
    checkpoint.prepare()
    codes = quantisation(checkpoint)
    if codes is not None:
        what = f"this model is quantised ({codes.scheme})"
        raise CheckpointError(what, where=Where(checkpoint.location), why=codes.why, hint="use its plain version")
    with _files_of(checkpoint) as folder:
        yield Opened(checkpoint.label, stored_view(checkpoint), folder, model_mark(checkpoint), Shared)


@contextmanager
def _files_of(checkpoint: Checkpoint) -> Iterator[Path]:
    """The model's folder; of a file, or a model of the hub, one with what stands beside its weights."""
    own = Path(without_adapters(checkpoint).location)
    if own.is_dir():
        yield own
        return
    files = {name: checkpoint.file(name) for name in checkpoint.files}
    if config := checkpoint.config.plain():  # of a GGUF file it is made, and of the hub it stands apart
        files["config.json"] = json.dumps(config).encode()
    with folder_with(files) as folder:
        yield folder


def stored_view(checkpoint: Checkpoint) -> View:
    """A stored model as a view, with the adapters on it. Raises MergeryError where these do not fit it."""
    stored = without_adapters(checkpoint)
    nodes: dict[str, Node] = {name: Stored(checkpoint.label, stored, info) for name, info in stored.tensors.items()}
    architecture = read_architecture(checkpoint.tensors.values(), checkpoint.config)
    view = View(checkpoint.label, nodes, architecture, checkpoint.config, checkpoint)
    if not isinstance(checkpoint, AdaptedCheckpoint):
        return view
    findings = Findings()
    adapted = adapted_view(view, checkpoint, None, (), findings)
    raise_all(findings.problems)
    assert adapted is not None
    return adapted


@contextmanager
def _planned(recipe: Any) -> Iterator[Opened]:
    """A merge as a view, read as it is made. The files beside its weights are written for the tokenizer alone."""
    plan = make_plan(recipe)
    plan.check_ready()
    name = Path(str(recipe)).stem if isinstance(recipe, (str, Path)) else "merge"
    try:
        with folder_with(side_files(plan)) as folder:
            yield Opened(name, plan.view, folder, {"plan": plan.digest}, lambda: merged_statistics(plan))
    finally:
        plan.close()


@contextmanager
def folder_with(files: Mapping[str, bytes]) -> Iterator[Path]:
    """A folder with small files, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="mergery-") as folder:
        for file, content in files.items():
            place = Path(folder, file)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        yield Path(folder)


def merged_statistics(plan: Plan) -> Shared:
    """What the merges of a plan ask of whole models."""
    run = Run(plan, _Nothing(), Options(), ignore)
    wake_kernels()
    with quiet_torch(load=True), ThreadPoolExecutor(run.options.workers, thread_name_prefix="mergery") as pool:
        run.statistics(pool, list(plan.steps))
    return run.shared


class _Nothing:
    """Where nothing is written."""

    done: Mapping[str, str] = {}

    def write(self, slot: Any, start: int, data: Any) -> None:
        raise AssertionError("nothing is written")

    def finished(self, steps: Any, digests: Any) -> None:
        raise AssertionError("nothing is written")
