"""`mergery rebase`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from mergery.cli.common import CHUNK, DryRun, Json, Quiet, Restart, Threads, Verbose, console, flowing, run_options

Tasks = Annotated[tuple[Path, ...], Parameter(consume_multiple=True)]
From = Annotated[str, Parameter(name="from", help="The base that the fine-tune was trained from.")]
To = Annotated[str, Parameter(name="to", help="The new base, of the same shape.")]
METHODS = {"shift": "rebase", "transplant": "analogy"}
"""The method of each way."""


@flowing
def rebase(
    finetune: str,
    out: Path,
    /,
    *,
    old: From,
    new: To,
    way: Literal["shift", "transplant"] = "shift",
    scale: float = 1.0,
    tokenizer: Literal["base", "union"] | None = None,
    tasks: Tasks = (),
    threads: Threads = 0,
    replace: bool = False,
    restart: Restart = False,
    dry_run: DryRun = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Move FINETUNE from the base that it was trained from onto a new one, and write the model folder OUT.

    transplant adds what the fine-tune has learned to the new base (methods.md#analogy). shift, the usual way, leaves out what
    the new base has learned as well, tensor by tensor (methods.md#rebase). Config and tokenizer are the new base's. With tasks,
    the fine-tune, both bases and the result are scored, and it is said how much of the fine-tune's effect is left.

    Parameters
    ----------
    finetune
        The folder of the fine-tune, or BASE+ADAPTER.
    out
        The model folder to write.
    way
        How the fine-tune is moved.
    scale
        Factor of what is moved.
    tokenizer
        Where the vocabularies differ: base keeps the new base's tokens, union all.
    tasks
        Task files on which the effect is measured (see docs/evaluation.md).
    replace
        Write OUT even if something else is there.
    """
    from mergery import api
    from mergery.cli.merge import say_beforehand
    from mergery.cli.progress import reporter

    models = {"old": old, "new": new, "finetune": finetune}
    merge = {"method": METHODS[way], "base": "new", "models": ["old", "finetune"], "scale": scale}
    recipe: dict[str, Any] = {"models": models, "merge": merge}
    if tokenizer is not None:
        recipe["output"] = {"tokenizer": tokenizer}
    if dry_run:
        say_beforehand(api.plan(recipe), out, run_options(threads, CHUNK), json=json, replace=replace, restart=restart)
        return
    with reporter(json=json, quiet=quiet, verbose=verbose) as report:
        api.merge(
            recipe, out, options=run_options(threads, CHUNK), replace=replace, restart=restart, on_event=report.event
        )
        found = [
            api.evaluate(model, list(tasks), name=name, on_event=report.event)
            for name, model in ({"rebased": out, "new base": new, "finetune": finetune, "old base": old}.items())
            if tasks
        ]
    if tasks and not json and not quiet:
        _show(found)


def _show(found: list[Any]) -> None:
    from mergery import api

    screen = console()
    rebased, new, finetune, old = found
    for task, *others in zip(rebased.tasks, new.tasks, finetune.tasks, old.tasks, strict=True):
        metric = task.metrics[0]
        scores = [each.scores[metric.name] for each in (task, *others)]
        effect, left = scores[2] - scores[3], scores[0] - scores[1]
        share = f", {left / effect:.0%} of it" if abs(effect) > 1e-9 else ""
        screen.print(
            f"{task.task}: {metric.name} {scores[2]:.4f} of the fine-tune, {effect:+.4f} over its base; {scores[0]:.4f} of "
            f"the result, {left:+.4f} over the new base{share}"
        )
    for line in api.compare(found[:2], parents=["new base"]).words:
        screen.print(line)
