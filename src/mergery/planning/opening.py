"""The checkpoints that a recipe names, opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mergery.checkpoints import Checkpoint, open_checkpoint
from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.checkpoints.adapters import read_adapter
from mergery.checkpoints.file_kinds import ADAPTER
from mergery.checkpoints.renamed import renamed
from mergery.errors import MergeryError, raise_all
from mergery.recipe import Recipe, Source

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
            if model.rename:
                opened[name] = renamed(opened[name], model.rename)
            opened[name] = on_recorded_base(opened[name], recipe.folder)
        except MergeryError as error:
            problems.append(error.at(model.place))
    if problems:
        for checkpoint in opened.values():
            checkpoint.close()
    raise_all(problems)
    return opened


def on_recorded_base(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """An adapter that stands alone, on the model that its config names, where that is there; anything else as it is."""
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
        return AdaptedCheckpoint(base, (checkpoint,))
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
