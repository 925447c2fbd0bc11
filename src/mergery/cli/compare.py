"""`mergery compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mergery.cli.common import Json, print_json, wait_without_spinning
from mergery.cli.evaluate import Batch, Several, Split, Tasks, TorchThreads

if TYPE_CHECKING:
    from mergery.evaluation import Evaluation


def compare(
    *models: Path,
    tasks: Tasks = (),
    parents: Annotated[tuple[Path, ...], Several] = (),
    split: Split | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    plot: Path | None = None,
    base: Path | None = None,
    chat: Annotated[bool, Parameter(negative="")] = False,
    batch: Batch = 32,
    threads: TorchThreads = 0,
    results: Path = Path("results"),
    json: Json = False,
) -> None:
    """Compare models on the same items: intervals, tests, what each alone solves, and what is noise.

    MODELS are models or recipes, which are evaluated on --tasks first, or results that `mergery evaluate` kept: a file, or the
    folder of one model.

    Parameters
    ----------
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
    from mergery.cli.evaluate import read_tasks, run
    from mergery.cli.scores import ScoreReporter, show_comparison
    from mergery.errors import TaskError
    from mergery.evaluation import Options
    from mergery.evaluation.picture import check_plot, draw
    from mergery.evaluation.results import SUFFIX, read_results

    if plot is not None:
        check_plot(plot)
    listed = read_tasks(tasks, split, seed)
    options = Options(batch, chat, threads=threads)
    # Parents that are no models of the list are added to it; a parent may also be told by its name alone.
    added = [parent for parent in parents if parent not in models and parent.exists()]
    reporter = ScoreReporter(json_events=json)
    found: dict[Path, Evaluation] = {}
    try:
        for model in dict.fromkeys([*added, *models]):
            if model.name.endswith(SUFFIX) or (model.is_dir() and any(model.glob(f"*{SUFFIX}"))):
                found[model] = read_results(model)
            elif not listed:
                raise TaskError(f"{str(model)!r} holds no results", hint="give --tasks, to evaluate it first")
            else:
                found[model] = run(model, listed, options, results, reporter, base=base)
    finally:
        reporter.close()
    names = [found[parent].model if parent in found else str(parent) for parent in parents]
    comparison = api.compare(list(found.values()), parents=names, seed=seed, resamples=resamples)
    if plot is not None:
        draw(comparison, plot)
    if json:
        print_json({"event": "compared", **comparison.plain()})
        return
    show_comparison(comparison)
    if plot is not None:
        print(f"drawn in {plot}")
