"""`mergery plan`."""

from __future__ import annotations

from pathlib import Path

from mergery.cli.common import CHUNK, DeviceName, Json, Only, Threads, run_options, show


def plan(
    recipe: Path,
    out: Path | None = None,
    /,
    *,
    threads: Threads = 0,
    device: DeviceName = "cpu",
    only: Only = (),
    json: Json = False,
) -> None:
    """Show what merging RECIPE would do, from headers alone, without writing anything.

    Exits with code 2 and every problem at once when the recipe cannot run.

    Parameters
    ----------
    recipe
        A YAML file: a Mergery recipe or a mergekit file.
    out
        The output folder, to check that it can be written.
    """
    from mergery import api
    from mergery.run.merging import check_output

    options = run_options(threads, CHUNK, device)
    planned = api.plan(recipe, only=only)
    if out is not None:
        check_output(planned, out)
    show(planned, options, json=json)
