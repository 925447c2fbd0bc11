"""`mergery soup`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mergery.cli.asking import Asking, Tasks
from mergery.cli.common import Telling, console, flowing, print_json, table, wait_without_spinning
from mergery.errors import RecipeError

if TYPE_CHECKING:
    from mergery.exploration.soups.running import SoupResult
    from mergery.exploration.soups.table import Choice

Threshold = Annotated[float, Parameter(help="Of soce: categories whose scores are correlated by less go apart.")]


@flowing
def soup(
    strategy: Literal["uniform", "greedy", "soce"],
    /,
    *models: str,
    out: Path | None = None,
    tasks: Tasks = (),
    scores: Path | None = None,
    threshold: Threshold = 0.5,
    quick: bool = False,
    seed: int = 0,
    workers: int = 1,
    asking: Asking = Asking(),
    telling: Telling = Telling(),
) -> None:
    """Average MODELS with weights that their scores on tasks decide, and write the recipe into the folder OUT.

    uniform gives all the same. greedy keeps each model by which the average gains, the best first (arXiv 2203.05482). soce
    takes the best models of categories that go apart, and tries all their weights in tenths (Soup Of Category Experts, arXiv
    2511.13254); categories are those of the items, or the tasks. Half of the items decide, and a quarter is kept for the
    report, which compares the soup with the others and with each model. Run the same command after an interruption and it
    goes on.

    Parameters
    ----------
    strategy
        How the weights are chosen.
    models
        Model folders of one architecture, two or more; MODEL+ADAPTER as well.
    out
        The folder to write: the recipe (recipe.yaml), all scores (soup.json), and every answer.
    scores
        Of soce, in place of models and tasks: a CSV file with a line of categories, and one for each model, its name first.
        The experts are chosen, and nothing is run.
    quick
        Of soce: try some of the weights only, and the best of the others by a quadratic function through these.
    seed
        Of the parts into which the tasks are split.
    workers
        Processes that score soups at the same time, each with a model in memory. What is found does not depend on it.
    """
    if scores is not None:
        if strategy != "soce" or models or tasks or out is not None:
            why = "a table alone gives the choice of experts, and nothing is run"
            raise RecipeError("--scores goes with soce alone", why=why, hint="mergery soup soce --scores table.csv")
        _choose(scores, threshold, json=telling.json)
        return
    if not tasks or out is None:
        hint = f"mergery soup {strategy} {' '.join(models) or 'MODEL MODEL'} --tasks FILE --out OUT"
        raise RecipeError("a soup needs " + ("--tasks" if not tasks else "--out"), hint=hint)
    wait_without_spinning()
    from mergery import api
    from mergery.exploration.soups.options import SoupOptions

    options = SoupOptions(strategy, threshold, quick, seed, workers)
    with telling.reporter() as report:
        found = api.soup(
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


def _choose(scores: Path, threshold: float, *, json: bool) -> None:
    from mergery.exploration.soups.table import choose_experts, grid, read_table

    choice = choose_experts(read_table(scores), threshold)
    weights = len(grid(len(choice.experts)))
    if json:
        print_json({**choice.plain(), "weights": weights})
        return
    _show_choice(choice)
    console().print(f"{weights} weights to try: mergery soup soce {' '.join(choice.experts)} --tasks FILE --out OUT")


def _show(found: SoupResult) -> None:
    screen = console()
    rows = table("on the items to search with", "score")
    for name, score in sorted(found.search.items(), key=lambda pair: -pair[1]):
        rows.add_row(name, f"{score:.4f}")
    screen.print(rows)
    for each in found.greedy.decisions:
        screen.print(f"greedy: {each.model} {'kept' if each.kept else 'left out'}, the soup with it {each.score:.4f}")
    if found.soce is not None:
        _show_choice(found.soce.choice)
        for name, share in found.soce.shapley.items():
            screen.print(f"{name} brings {share:.4f} of what equal weights reach (Shapley)")
        if found.soce.quick:
            screen.print("the weights are the best by a quadratic function through some: not the published method")
    for line in found.report.words:
        screen.print(line)
    weights = ", ".join(f"{name} {weight:.3g}" for name, weight in found.weights.items())
    screen.print(f"{found.strategy}: {weights}")
    screen.print(f"next: mergery merge {found.recipe} OUT")


def _show_choice(choice: Choice) -> None:
    screen = console()
    rows = table("category", "expert")
    for category, expert in choice.of.items():
        rows.add_row(category, expert)
    screen.print(rows)
    weakest = sorted(choice.correlations, key=lambda each: abs(each.value))[:6]
    for each in weakest:
        screen.print(f"{each.one} and {each.other}: r {each.value:.2f} [{each.low:.2f}, {each.high:.2f}]")
    for group in choice.clusters:
        screen.print(f"go together: {', '.join(group)}")
    for warning in choice.warnings:
        screen.print(f"warning: {warning}")
    screen.print(f"experts: {', '.join(choice.experts)}")
