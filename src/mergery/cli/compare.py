"""`mergery compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mergery.cli.common import Telling, console, flowing, table, wait_without_spinning
from mergery.cli.evaluate import Batch, Several, Split, Tasks, TorchThreads, read_tasks

if TYPE_CHECKING:
    from rich.console import Console

    from mergery.evaluation import Comparison, Evaluation
    from mergery.evaluation.findings import Interval

SHOWN = 8  # items named in a table


@flowing
def compare(
    *models: Path,
    tasks: Tasks = (),
    parents: Annotated[tuple[Path, ...], Several] = (),
    split: Split | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    plot: Path | None = None,
    base: Path | None = None,
    chat: bool = False,
    batch: Batch = 32,
    threads: TorchThreads = 0,
    results: Path = Path("results"),
    telling: Telling = Telling(),
) -> None:
    """Compare models on the same items: intervals, tests, what each alone solves, and what is noise.

    MODELS are models or recipes, which are evaluated on --tasks first, or results that `mergery evaluate` kept: a file, or the
    folder of one model.

    Parameters
    ----------
    models
        Models, recipes, or results that `mergery evaluate` kept.
    tasks
        Task files, for models that are yet to be evaluated.
    parents
        The models that the others were merged from. The others are compared with each of them; without parents, all are
        compared with the first model.
    split
        Use one part of every task only: search, validation or report.
    seed
        Of the splits, the bootstrap and the permutation test.
    resamples
        Of the bootstrap and of the permutation test.
    plot
        An image to write (.png, .svg or .pdf): every model's interval, for each task and category.
    base
        The folder of the base of adapters that do not name it.
    chat
        Put prompts through the tokenizer's chat template.
    results
        The folder in which results are kept.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.errors import TaskError
    from mergery.evaluation import EvaluationOptions
    from mergery.evaluation.models import check_there, on_hub
    from mergery.evaluation.picture import check_plot, draw
    from mergery.evaluation.results import SUFFIX, read_results
    from mergery.run.events import Compared

    if plot is not None:
        check_plot(plot)
    # Parents that are no models of the list are added to it; a parent may also be told by its name alone.
    added = [parent for parent in parents if parent not in models and (parent.exists() or on_hub(parent))]
    compared = list(dict.fromkeys([*added, *models]))
    if len(compared) < 2:
        hint = "put the models before --tasks, which takes all words behind it" if tasks and not models else ""
        raise TaskError("there is nothing to compare with", hint=hint or "give two models or more")
    listed = read_tasks(tasks, split, seed)
    options = EvaluationOptions(batch, chat, threads=threads)
    kept = {model for model in compared if model.name.endswith(SUFFIX) or any(model.glob(f"*{SUFFIX}"))}
    for model in compared:  # all of them, before the first is run
        if model not in kept:
            check_there(model)
    found: dict[Path, Evaluation] = {}
    with telling.reporter() as report:
        for model in compared:
            if model in kept:
                found[model] = read_results(model)
            elif not listed:
                raise TaskError(f"{str(model)!r} holds no results", hint="give --tasks, to evaluate it first")
            else:
                found[model] = api.evaluate(
                    model, listed, options=options, results=results, base=base, on_event=report.event
                )
        names = [found[parent].model if parent in found else str(parent) for parent in parents]
        comparison = api.compare(list(found.values()), parents=names, seed=seed, resamples=resamples)
        report.event(Compared(**comparison.plain()))
    if plot is not None:
        draw(comparison, plot)
    if not telling.in_words:
        return
    show_comparison(comparison)
    if plot is not None:
        print(f"drawn in {plot}")


def show_comparison(comparison: Comparison) -> None:
    """A comparison as tables, and its findings in words."""
    out = console()
    for task in dict.fromkeys(score.task for score in comparison.scores):
        _show_scores(out, comparison, task)
        _show_overlaps(out, comparison, task)
        for pair in comparison.pairs:
            if pair.task == task:
                out.print(f"- {pair.words}")
        for optimism in comparison.optimisms:
            if optimism.task == task:
                out.print(f"- {optimism.words}")
        out.print()


def _show_scores(out: Console, comparison: Comparison, task: str) -> None:
    own = [score for score in comparison.scores if score.task == task]
    parts = list(dict.fromkeys(score.category for score in own))
    by_place = {(score.model, score.category): score for score in own}
    scores = table(title=f"{task}: {own[0].metric}, 95% intervals", title_justify="left")
    scores.add_column("model")
    for part in parts:
        scores.add_column(f"{part or 'all'} ({by_place[own[0].model, part].items})", justify="right")
    for model in comparison.models:
        parent = " (parent)" if model in comparison.parents else ""
        scores.add_row(model + parent, *(_cell(by_place[model, part]) for part in parts))
    out.print(scores)


def _cell(score: Interval) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _show_overlaps(out: Console, comparison: Comparison, task: str) -> None:
    found = [overlap for overlap in comparison.overlaps if overlap.task == task]
    if not found:
        return
    whom = "parents" if comparison.parents else "others"
    solved = (f"of what all {whom} solve", f"of what any of the {whom} solves")
    overlaps = table("model", *solved, "it alone solves", "it loses")
    for overlap in found:
        kept = f"{overlap.shared - len(overlap.lost)} of {overlap.shared}"
        share = f" ({overlap.retention:.0%})" if overlap.retention is not None else ""
        reached = f"{overlap.reached} of {overlap.reachable}"
        overlaps.add_row(overlap.candidate, kept + share, reached, _some(overlap.gained), _some(overlap.lost))
    out.print(overlaps)


def _some(items: tuple[str, ...]) -> str:
    if not items:
        return "-"
    more = ", ..." if len(items) > SHOWN else ""
    return f"{len(items)}: {', '.join(items[:SHOWN])}{more}"
