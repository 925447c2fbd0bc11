"""`mergery merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mergery.cli.common import CHUNK, Chunk, DeviceName, Json, Only, Threads, carry_out, run_options


def merge(
    recipe: Path,
    out: Path,
    /,
    *,
    threads: Threads = 0,
    chunk: Chunk = CHUNK,
    device: DeviceName = "cpu",
    only: Only = (),
    replace: Annotated[bool, Parameter(negative="")] = False,
    ray: str | None = None,
    json: Json = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Merge models as RECIPE says and write the model folder OUT.

    RECIPE is a Mergery recipe or a mergekit file. Run the same command again after an interruption and it goes on where
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
    from mergery import api

    options = run_options(threads, chunk, device)
    carry_out(api.plan(recipe, only=only), out, options, json=json, quiet=quiet, replace=replace, ray=ray)
