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
    DryRun,
    Json,
    Only,
    Quiet,
    RecipeFile,
    Restart,
    Set,
    Threads,
    Verbose,
    flowing,
    read_recipe,
    run_options,
)

if TYPE_CHECKING:
    from mergery.planning.plan import Plan
    from mergery.run.workers import Options


@flowing
def merge(
    recipe: RecipeFile,
    out: Path,
    /,
    *,
    dry_run: DryRun = False,
    values: Set = (),
    allow: Allow = (),
    drop: Drop = (),
    only: Only = (),
    replace: bool = False,
    restart: Restart = False,
    threads: Threads = 0,
    chunk: Chunk = CHUNK,
    device: DeviceName = "cpu",
    ray: str | None = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Merge models as RECIPE says and write the model folder OUT.

    RECIPE is a Mergery recipe or a mergekit file. Run the same command again after an interruption and it goes on where
    it stopped, with the same bytes in the end.

    Parameters
    ----------
    recipe
        A YAML file: a Mergery recipe or a mergekit file; - is standard input.
    out
        The folder to write. It must not exist, or be empty, or hold what an interrupted run of the same command left.
    replace
        Exchange the model that stands in OUT for the new one, once that is complete.
    ray
        The address of a Ray cluster that does the work: auto for the one that is running, local for processes of this
        machine. --threads is then of each worker.
    """
    from mergery import api
    from mergery.errors import RecipeError

    options = run_options(threads, chunk, device)
    if out.is_file() and str(recipe) != "-" and not recipe.is_file():
        raise RecipeError(f"the recipe stands where OUT belongs: {str(out)!r}", hint=f"mergery merge {out} {recipe}")
    plan = api.plan(read_recipe(recipe, values, allow, drop), only=only)
    if dry_run:
        say_beforehand(plan, out, options, json=json, replace=replace, restart=restart)
    else:
        carry_out(
            plan, out, options, json=json, quiet=quiet, verbose=verbose, replace=replace, restart=restart, ray=ray
        )


def say_beforehand(plan: Plan, out: Path, options: Options, *, json: bool, replace: bool, restart: bool) -> None:
    """Print what a merge into `out` would do, and close the plan. Raises PlanError where it would be refused."""
    from mergery.cli.plan import show
    from mergery.run.output import outlook, place_of

    show(plan, options, json=json, output=outlook(plan, place_of(out), replace=replace, restart=restart))


def carry_out(
    plan: Plan,
    out: Path,
    options: Options,
    *,
    json: bool,
    quiet: bool,
    verbose: bool,
    replace: bool,
    restart: bool,
    ray: str | None = None,
) -> None:
    """Merge as planned, and tell of it as the user wants."""
    from mergery import api
    from mergery.cli.progress import reporter

    with reporter(json=json, quiet=quiet, verbose=verbose) as report:
        api.merge(plan, out, options=options, on_event=report.event, replace=replace, restart=restart, ray=ray)
