"""`mergery auto`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mergery.cli.asking import Asking, Tasks
from mergery.cli.common import Telling, console, flowing, table, wait_without_spinning

if TYPE_CHECKING:
    from mergery.exploration.automatic.diagnosis import Recommendation
    from mergery.exploration.automatic.running import AutoResult

Budget = Annotated[str, Parameter(help="Time for the whole: 30m, 2h, 90s. What has begun is finished.")]

NoTasks = Annotated[bool, Parameter(help="Recommend a method from how the models meet alone: nothing is scored.")]


@flowing
def auto(
    base: str,
    /,
    *models: str,
    out: Path,
    tasks: Tasks | None = None,
    no_tasks: NoTasks = False,
    budget: Budget = "30m",
    seed: int = 0,
    workers: int = 1,
    asking: Asking = Asking(),
    telling: Telling = Telling(),
) -> None:
    """Decide whether and how to merge MODELS, fine-tunes of BASE, and write the recipe that is recommended into the folder OUT.

    Each model alone and eleven methods are tried, cheap ones first, as far as the budget goes; in the time that is left the
    weights of the best two are searched. Half of the items are tried on, a quarter decides, and a quarter is kept for the
    report. A merge is recommended only where it beats the best model alone by more than chance; otherwise the answer is not to
    merge. Run the same command after an interruption: what has been answered is not asked again.

    With --no-tasks nothing is scored: a method is recommended by how the models meet, with how sure that is.

    Parameters
    ----------
    base
        The folder of the model that the others were trained from.
    models
        Two folders or more; MODEL+ADAPTER as well.
    out
        The folder to write: the recipe (recipe.yaml), all that was tried (auto.json), and every answer.
    seed
        Of the parts of the tasks, and of the search.
    workers
        Processes that score models at the same time, each with one in memory.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.errors import RecipeError
    from mergery.exploration.automatic.options import AutoOptions, parse_budget

    if no_tasks and tasks is not None:
        raise RecipeError("--tasks and --no-tasks do not go together", hint="leave out one of them")
    if tasks is None and not no_tasks:
        hint = "--tasks FILE.jsonl, or --no-tasks for advice from how the models meet"
        raise RecipeError("there is no task", why="a choice is made by scores", hint=hint)
    if no_tasks:
        with telling.reporter() as report:
            told = api.recommend(base, models, out, on_event=report.event)
        if telling.in_words:
            _tell(told)
        return
    assert tasks is not None
    options = AutoOptions(parse_budget(budget), seed, workers)
    with telling.reporter() as report:
        found = api.auto(
            base,
            models,
            out,
            tasks,
            options=options,
            evaluation_options=asking.options,
            tokenizer=asking.tokenizer,
            on_event=report.event,
        )
    if telling.in_words:
        _show(found)


def _show(found: AutoResult) -> None:
    screen = console()
    rows = table("tried", "on search items", "on validation items", "over the best model alone")
    judged = {each.entry.name: each for each in found.verdict.judged}
    for entry in sorted(found.tried, key=lambda entry: -entry.search):
        own = judged.get(entry.name)
        cells = ("", "")
        if own is not None:
            gain = f"{own.gain:+.4f} [{own.gain_low:+.4f}, {own.gain_high:+.4f}]"
            cells = (f"{own.score:.4f} [{own.low:.4f}, {own.high:.4f}]", gain)
        rows.add_row(entry.name, f"{entry.search:.4f}", *cells)
    screen.print(rows)
    for why in dict.fromkeys(found.skipped.values()):
        names = [name for name, each in found.skipped.items() if each == why]
        screen.print(f"not tried: {', '.join(names)}: {why}")
    for line in found.report.words if found.report is not None else ():
        screen.print(line)
    screen.print(found.verdict.words)
    screen.print(f"next: mergery merge {found.recipe} OUT" if found.verdict.merge else f"its recipe: {found.recipe}")


def _tell(found: Recommendation) -> None:
    screen = console()
    if found.foretold is not None:
        rows = table("method, with nothing set", "foretold to be behind the best by")
        for name, behind in found.foretold.behind.items():
            rows.add_row(name, f"{max(behind, 0.0):.3f}")
        screen.print(rows)
    for name, why in found.skipped.items():
        screen.print(f"not recommended: {name}: {why}")
    for line in found.words:
        screen.print(line)
    screen.print(f"next: mergery merge {found.recipe} OUT")
