"""`mergery evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mergery.cli.common import Json, print_json, wait_without_spinning

if TYPE_CHECKING:
    from mergery.evaluation import Evaluation, Options, Task

Several = Parameter(consume_multiple=True, negative="")
Tasks = Annotated[tuple[Path, ...], Several]
Batch = Annotated[int, Parameter(help="Rows at once. It changes the speed, not the scores.")]
TorchThreads = Annotated[int, Parameter(help="Threads of torch; 0 takes one for each core.")]
Split = Literal["search", "validation", "report"]


def evaluate(
    model: Path,
    /,
    *,
    tasks: Tasks = (),
    harness: Annotated[tuple[str, ...], Several] = (),
    include: Path | None = None,
    base: Path | None = None,
    tokenizer: Path | None = None,
    chat: Annotated[bool, Parameter(negative="")] = False,
    split: Split | None = None,
    seed: int = 0,
    batch: Batch = 32,
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
    longest: int | None = None,
    device: str = "auto",
    threads: TorchThreads = 0,
    results: Path = Path("results"),
    json: Json = False,
    quiet: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Score MODEL on tasks, item by item.

    MODEL is a model folder, a PEFT adapter's folder, or a recipe, which is then merged in memory and never written. What has
    been scored before is not computed again; run the same command after an interruption and it goes on.

    Parameters
    ----------
    tasks
        Task files: JSON objects, one a line (see docs/evaluation.md).
    harness
        Tasks of lm-eval to run on the same model, by name or as YAML files. Nothing is downloaded.
    include
        A folder of more YAML tasks for lm-eval.
    base
        The folder of an adapter's base, where the adapter does not name it.
    tokenizer
        A folder with a tokenizer, instead of the model's own.
    chat
        Put prompts through the tokenizer's chat template.
    split
        Score one part of every task only: search, validation or report. Each item's part is told by its content and --seed.
    dtype
        Of the weights in memory.
    longest
        Tokens that the model is given at once; what its config says, where not given.
    device
        Such as cpu or cuda:0; auto is the first GPU where there is one.
    results
        The folder in which results are kept.
    quiet
        Print nothing but errors.
    """
    wait_without_spinning()
    from mergery.cli.scores import ScoreReporter, show_evaluation
    from mergery.evaluation import Options

    options = Options(batch, chat, dtype, longest, threads, device)
    reporter = ScoreReporter(json_events=json, quiet=quiet)
    try:
        found = run(
            model, read_tasks(tasks, split, seed), options, results, reporter,
            harness=harness, include=include, base=base, tokenizer=tokenizer,
        )  # fmt: skip
    finally:
        reporter.close()
    if json:
        print_json({"event": "done", **found.plain()})
    elif not quiet:
        show_evaluation(found)


def read_tasks(files: tuple[Path, ...], split: Split | None, seed: int) -> list[Task]:
    """The task files, or one part of each. Problems of all files are told at once."""
    from mergery.errors import MergeryError, raise_all
    from mergery.evaluation import load_task
    from mergery.evaluation.splits import part_of

    tasks, problems = [], []
    for file in files:
        try:
            task = load_task(file)
            tasks.append(part_of(task, split, seed=seed) if split else task)
        except MergeryError as error:
            problems.append(error)
    raise_all(problems)
    return tasks


def run(
    model: Path, tasks: list[Task], options: Options, results: Path, reporter: object, **given: object
) -> Evaluation:
    """Evaluate one model, with events to the reporter."""
    from mergery import api

    return api.evaluate(model, tasks, options=options, results=results, on_event=reporter.event, **given)  # type: ignore[attr-defined, arg-type]
