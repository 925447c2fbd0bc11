"""Checkpoints of one training run, found by a pattern and put in the order of training."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from typing import Any

from mergery.checkpoints.file_kinds import is_weight_file
from mergery.errors import RecipeError

MOST = 1000  # checkpoints of one run


def unfold(models: Any, folder: Path) -> tuple[Any, dict[str, list[str]], dict[str, RecipeError]]:
    """The models of a recipe, with a run's checkpoints as `run@step` in its place; the names of each run; and what is wrong.

    What is no mapping is returned as it is.
    """
    if not isinstance(models, dict):
        return models, {}, {}
    result: dict[Any, Any] = {}
    runs: dict[str, list[str]] = {}
    problems: dict[str, RecipeError] = {}
    for name, path in models.items():
        if not is_run(path, folder):
            result[name] = path
            continue
        try:
            steps = find_run(path, folder)
        except RecipeError as error:
            problems[name] = error
            continue
        runs[name] = [f"{name}@{step}" for step in steps]
        result.update(zip(runs[name], steps.values(), strict=True))
    return result, runs, problems


def is_run(path: object, folder: Path) -> bool:
    """Whether a model's path is a pattern over several, rather than the name of one."""
    return isinstance(path, str) and glob.has_magic(path) and "\0" not in path and not os.path.lexists(folder / path)


def find_run(pattern: str, folder: Path) -> dict[int, str]:
    """The paths that a pattern such as `run/checkpoint-*` matches, by step, in the order of steps.

    A step is the last number in what stands for the last part of the pattern with a wildcard. Relative patterns are looked
    up from `folder`, and give relative paths. Raises RecipeError where nothing matches, a match has no number, two have
    the same, or one has no weights.
    """
    wild = max(place for place, part in enumerate(Path(pattern).parts) if glob.has_magic(part))
    matches = sorted(glob.glob(os.path.expanduser(pattern), root_dir=folder))  # noqa: PTH111, PTH207 - they keep ./
    if not matches:
        raise RecipeError(
            f"no checkpoint matches {pattern!r}",
            why=f"patterns are looked up from {str(folder.resolve())!r}",
            hint="check the path; * stands for any part of a name",
        )
    if len(matches) > MOST:
        raise RecipeError(
            f"{len(matches)} checkpoints match {pattern!r}",
            why=f"a run has at most {MOST}",
            hint="write a narrower pattern",
        )
    steps: dict[int, str] = {}
    for match in matches:
        part = Path(match).parts[wild]
        numbers = re.findall(r"\d+", Path(part).stem if Path(part).suffix in (".safetensors", ".bin", ".pt") else part)
        if not numbers:
            hint = f"match numbered checkpoints alone, with [0-9]* for *: {pattern.replace('*', '[0-9]*')}"
            raise RecipeError(f"{match!r} has no step number", why=f"it matches {pattern!r}", hint=hint)
        step = int(numbers[-1])
        if step in steps:
            what, why = f"{steps[step]!r} and {match!r} are both step {step}", f"both match {pattern!r}"
            raise RecipeError(what, why=why, hint="write a narrower pattern, or move one away")
        steps[step] = match
    empty = [path for path in steps.values() if not has_weights(folder / path)]
    if empty:
        raise RecipeError(
            f"{empty[0]!r} has no weights" + (f", and {len(empty) - 1} more" if len(empty) > 1 else ""),
            why=f"it matches {pattern!r}; a step that is being saved, or one that keeps the optimizer's state alone",
            hint="move it away, or write a narrower pattern",
        )
    return dict(sorted(steps.items()))


def has_weights(path: Path) -> bool:
    """Whether a folder has a weight file, or the path is one."""
    if path.is_dir():
        return any(is_weight_file(entry.name) for entry in path.iterdir())
    return is_weight_file(path.name)
