"""`weft merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from weft.cli.common import Chunk, DeviceName, Json, Only, Threads, run_options


def merge(
    recipe: Path,
    out: Path,
    /,
    *,
    threads: Threads = 0,
    chunk: Chunk = "256Ki",
    device: DeviceName = "cpu",
    only: Only = (),
    replace: Annotated[bool, Parameter(negative="")] = False,
    ray: str | None = None,
    json: Json = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Merge models as RECIPE says and write the model folder OUT.

    RECIPE is a Weft recipe or a mergekit file. Run the same command again after an interruption and it goes on where
    it stopped, with the same bytes in the end.

    Parameters
    ----------
    recipe
        A YAML file.
    out
        The folder to write. It must not exist, or be empty, or hold what an interrupted run of the same command left: then
        the merge goes on from there, with the same bytes in the end.
    replace
        Exchange what stands in OUT for the new model, once that is complete.
    ray
        The address of a Ray cluster that does the work: auto for the one that is running, local for processes of this
        machine. --threads is then of each worker.
    quiet
        Print nothing but errors.
    """
    from weft import api
    from weft.cli.progress import reporter

    options = run_options(threads, chunk, device)
    plan = api.plan(recipe, only=only)
    report = reporter("json" if json else "quiet" if quiet else "auto")
    report.plan(plan)
    try:
        result = api.merge(plan, out, options=options, on_event=report.event, replace=replace, ray=ray)
    finally:
        report.close()
    assert isinstance(result, api.Result)
    report.result(result)
