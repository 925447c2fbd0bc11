"""`weft plan`."""

from __future__ import annotations

from pathlib import Path

from weft.cli.common import DeviceName, Json, Only, Threads, print_json, run_options


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
        A YAML file: a Weft recipe or a mergekit file.
    out
        The output folder, to check that it can be written.
    """
    from weft import api
    from weft.cli.progress import show_plan
    from weft.planning.explain import explain
    from weft.run.sinks import check_space, partial_folder

    options = run_options(threads, "256Ki", device)
    planned = api.plan(recipe, only=only)
    if out is not None:
        api.check_output(planned, out)
        check_space(partial_folder(out), planned.layout)
    facts = explain(planned, options)
    planned.close()
    if json:
        print_json(facts)
    else:
        show_plan(facts)
