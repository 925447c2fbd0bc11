"""The checkpoints that a recipe names, opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergery.checkpoints import Checkpoint, open_checkpoint
from mergery.checkpoints.adapted import ROUNDINGS, AdaptedCheckpoint, NoModel
from mergery.checkpoints.adapters import read_adapter
from mergery.checkpoints.file_kinds import ADAPTER
from mergery.checkpoints.renamed import renamed
from mergery.errors import CheckpointError, MergeryError, Where, raise_all
from mergery.planning.coordinates import transform_of
from mergery.planning.measurements import PROTECTED, statistics_of
from mergery.recipe import Recipe, Source

MERGE_FIRST = "merge the adapter in by a recipe of its own, and rename what that gives"
FILES = 1 << 16  # open files wanted at most


def open_all(recipe: Recipe) -> dict[str, Checkpoint]:
    """Open every source. Models under one path share a checkpoint."""
    allow_files()
    opened: dict[str, Checkpoint] = {}
    headers: dict[str, Any] = {}
    problems: list[MergeryError] = []
    for name, model in recipe.models.items():
        if not isinstance(model, Source):
            continue
        try:
            if not model.path:
                adapters = [open_checkpoint(each, relative_to=recipe.folder) for each in model.adapters]
                opened[name] = AdaptedCheckpoint(NoModel(name), adapters, model.rounding)
                continue
            opened[name] = open_checkpoint(
                model.path,
                revision=model.revision,
                task=model.task,
                label=name,
                relative_to=recipe.folder,
                headers=headers,
                adapters=model.adapters,
                rounding=model.rounding,
            )
            if model.rename and (isinstance(opened[name], AdaptedCheckpoint) or is_adapter(opened[name])):
                why = "an adapter is put on a model under the model's own names"
                raise CheckpointError(
                    "a model with an adapter cannot be renamed", where=Where(name), why=why, hint=MERGE_FIRST
                )
            if model.rename:
                opened[name] = renamed(opened[name], model.rename)
            if not _baseless(recipe):
                opened[name] = on_recorded_base(opened[name], recipe.folder, model.rounding)
            elif is_adapter(opened[name]):
                opened[name] = AdaptedCheckpoint(NoModel(name), _all_of(opened[name]), model.rounding)
            for other, folder in model.measured.items():
                label = statistics_of(name, other)
                opened[label] = open_checkpoint(folder, label=label, relative_to=recipe.folder)
            if model.transform is not None:
                label = transform_of(name)
                opened[label] = open_checkpoint(model.transform, label=label, relative_to=recipe.folder)
        except MergeryError as error:
            problems.append(error.named_in(model.place))
    if recipe.protect is not None and recipe.protect.statistics:
        try:
            folder = recipe.protect.statistics
            opened[PROTECTED] = open_checkpoint(folder, label=PROTECTED, relative_to=recipe.folder)
        except MergeryError as error:
            problems.append(error.named_in(recipe.protect.place))
    if problems:
        for checkpoint in opened.values():
            checkpoint.close()
    raise_all(problems)
    return opened


def _baseless(recipe: Recipe) -> bool:
    """Whether the output is an adapter, and nothing is said of a model under it."""
    base = recipe.models.get(recipe.merge.base or (recipe.output.adapter.base if recipe.output.adapter else None) or "")
    return recipe.output.adapter is not None and (base is None or (isinstance(base, Source) and not base.path))


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is an adapter alone, of a kind that can be merged."""
    adapter = read_adapter(checkpoint) if not checkpoint.config else None
    return adapter is not None and adapter.kind in ("LoRA", "DoRA") and not adapter.beside


def _all_of(checkpoint: Checkpoint) -> tuple[Checkpoint, ...]:
    """An adapter, and those that a recipe puts behind it with a +."""
    return (checkpoint.base, *checkpoint.adapters) if isinstance(checkpoint, AdaptedCheckpoint) else (checkpoint,)


def on_recorded_base(checkpoint: Checkpoint, folder: Path, rounding: str = ROUNDINGS[0]) -> Checkpoint:
    """An adapter without a model, and those behind it, on the model that its config names, where that is there; anything else
    as it is.
    """
    if checkpoint.config or ADAPTER not in checkpoint.files:
        return checkpoint
    adapter = read_adapter(checkpoint)
    if adapter is None or not adapter.base or adapter.beside:
        return checkpoint
    for place in (folder, Path()):
        try:
            base = open_checkpoint(adapter.base, label=checkpoint.label, relative_to=place)
        except MergeryError:
            continue
        return AdaptedCheckpoint(base, _all_of(checkpoint), rounding)
    return checkpoint


def allow_files() -> None:
    """Raise this process's limit of open files as far as the system lets it: a hundred sharded models are thousands."""
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
            most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    except (ImportError, ValueError, OSError):
        pass  # then opening too many says so
