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
    Only,
    RecipeFile,
    Set,
    Writing,
    flowing,
    read_recipe,
    run_options,
)

if TYPE_CHECKING:
    from mergery.planning.plan import Plan
    from mergery.recipe import Recipe
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
    chunk: Chunk = CHUNK,
    device: DeviceName = "cpu",
    ray: str | None = None,
    writing: Writing = Writing(),
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
    ray
        The address of a Ray cluster that does the work: auto for the one that is running, local for processes of this
        machine. --threads is then of each worker.
    """
    from mergery import api
    from mergery.errors import RecipeError

    options = run_options(writing.threads, chunk, device)
    if out.is_file() and str(recipe) != "-" and not recipe.is_file():
        raise RecipeError(f"the recipe stands where OUT belongs: {str(out)!r}", hint=f"mergery merge {out} {recipe}")
    plan = api.plan(read_recipe(recipe, values, allow, drop), only=only)
    if dry_run:
        say_beforehand(plan, out, options, writing)
    else:
        carry_out(plan, out, options, writing, ray=ray)


def write(recipe: Recipe, out: Path, writing: Writing, *, dry_run: bool) -> Plan:
    """Carry a recipe out, or say what that would do. Returns its plan."""
    from mergery import api

    plan = api.plan(recipe)
    if dry_run:
        say_beforehand(plan, out, writing.options, writing)
    else:
        carry_out(plan, out, writing.options, writing)
    return plan


def say_beforehand(plan: Plan, out: Path, options: Options, writing: Writing) -> None:
    """Print what a merge into `out` would do, and close the plan. Raises PlanError where it would be refused."""
    from mergery.cli.plan import show
    from mergery.run.output import outlook, place_of

    output = outlook(plan, place_of(out), replace=writing.replace, restart=writing.restart)
    show(plan, options, json=writing.telling.json, output=output)


def carry_out(plan: Plan, out: Path, options: Options, writing: Writing, *, ray: str | None = None) -> None:
    """Merge as planned, and tell of it as the user wants."""
    from mergery import api

    replace, restart = writing.replace, writing.restart
    with writing.reporter() as report:
        api.merge(plan, out, options=options, on_event=report.event, replace=replace, restart=restart, ray=ray)
