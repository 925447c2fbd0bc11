"""`mergery merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mergery.cli.common import (
    CHUNK,
    Allow,
    Chunk,
    DeviceName,
    Drop,
    Json,
    Only,
    Quiet,
    RecipeFile,
    Replace,
    Restart,
    Set,
    Threads,
    read_recipe,
    run_options,
)

if TYPE_CHECKING:
    from mergery.planning.plan import Plan
    from mergery.run.workers import Options


def merge(
    recipe: RecipeFile,
    out: Path,
    /,
    *,
    threads: Threads = 0,
    chunk: Chunk = CHUNK,
    device: DeviceName = "cpu",
    values: Set = (),
    allow: Allow = (),
    drop: Drop = (),
    only: Only = (),
    replace: Replace = False,
    restart: Restart = False,
    ray: str | None = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge models as RECIPE says and write the model folder OUT.

    RECIPE is a Mergery recipe or a mergekit file. Run the same command again after an interruption and it goes on where
    it stopped, with the same bytes in the end.

    Parameters
    ----------
    recipe
        A YAML file; - is standard input.
    out
        The folder to write. It must not exist, or be empty, or hold what an interrupted run of the same command left: then
        the merge goes on from there, with the same bytes in the end.
    replace
        Exchange the model that stands in OUT for the new one, once that is complete.
    ray
        The address of a Ray cluster that does the work: auto for the one that is running, local for processes of this
        machine. --threads is then of each worker.
    """
    from mergery import api

    options = run_options(threads, chunk, device)
    plan = api.plan(read_recipe(recipe, values, allow, drop), only=only)
    carry_out(plan, out, options, json=json, quiet=quiet, replace=replace, restart=restart, ray=ray)


def carry_out(
    plan: Plan,
    out: Path,
    options: Options,
    *,
    json: bool,
    quiet: bool,
    replace: bool,
    restart: bool,
    ray: str | None = None,
) -> None:
    """Merge as planned, and tell of it as the user wants."""
    from mergery import api
    from mergery.cli.progress import reporter

    with reporter(json=json, quiet=quiet) as report:
        api.merge(plan, out, options=options, on_event=report.event, replace=replace, restart=restart, ray=ray)
