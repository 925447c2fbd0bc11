"""`mergery pack`."""

from __future__ import annotations

from pathlib import Path

from mergery.cli.common import CHUNK, Chunk, Json, Threads, print_json, run_options


def pack(recipe: Path, out: Path, /, *, threads: Threads = 0, chunk: Chunk = CHUNK, json: Json = False) -> None:
    """Keep all models that the method of RECIPE serves, by task, in the folder OUT.

    For tall_mask, emr, onebit and other methods that serve one task at a time. OUT refers to the base, which must stay where
    it is. A model of it is {path: OUT, task: NAME} in a recipe.

    Parameters
    ----------
    recipe
        A YAML file. All tasks are packed, whichever it names.
    out
        The folder to write. It must not exist.
    """
    from mergery import api
    from mergery.cli.progress import reporter
    from mergery.report.words import size

    report = reporter("json" if json else "auto")
    try:
        result = api.pack(recipe, out, options=run_options(threads, chunk), on_event=report.event)
    finally:
        report.close()
    if json:
        print_json({"event": "packed", "folder": str(out), "tasks": result.tasks, "bytes": result.bytes_packed})
    else:
        print(
            f"{out} serves {', '.join(result.tasks)} in {size(result.bytes_packed)} beside the base; "
            f"apart, they would take {size(result.bytes_apart)}"
        )
