"""`mergery pack`."""

from __future__ import annotations

from pathlib import Path

from mergery.cli.common import (
    CHUNK,
    Chunk,
    DryRun,
    RecipeFile,
    Telling,
    Threads,
    flowing,
    print_json,
    run_options,
)


@flowing
def pack(
    recipe: RecipeFile,
    out: Path,
    /,
    *,
    dry_run: DryRun = False,
    threads: Threads = 0,
    chunk: Chunk = CHUNK,
    telling: Telling = Telling(),
) -> None:
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
    from mergery.errors import size

    if dry_run:
        from mergery.run.packing import pack_beforehand

        would = pack_beforehand(recipe, out)
        if telling.json:
            print_json(would.plain())
        else:
            sizes = size(would.bytes_packed), size(would.bytes_apart)
            print(
                f"{out} would serve {', '.join(would.tasks)} in {sizes[0]} beside the base; apart, they would take {sizes[1]}"
            )
        return
    with telling.reporter() as report:
        packed = api.pack(recipe, out, options=run_options(threads, chunk), on_event=report.event)
    if telling.in_words:
        sizes = size(packed.bytes_packed), size(packed.bytes_apart)
        print(
            f"{out} serves {', '.join(packed.tasks)} in {sizes[0]} beside the base; apart, they would take {sizes[1]}"
        )
