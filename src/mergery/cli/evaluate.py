"""`mergery evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from mergery.cli.common import Telling, console, flowing, table, wait_without_spinning

if TYPE_CHECKING:
    from mergery.evaluation import Evaluation, Task

Several = Parameter(consume_multiple=True)
Tasks = Annotated[tuple[Path, ...], Several]
Batch = Annotated[int, Parameter(help="Rows at once. It changes the speed, not the scores.")]
TorchThreads = Annotated[int, Parameter(help="Threads of torch; 0 takes one for each core.")]
Split = Literal["search", "validation", "report"]


@flowing
def evaluate(
    model: Path,
    /,
    *,
    tasks: Tasks = (),
    harness: Annotated[tuple[str, ...], Several] = (),
    include: Path | None = None,
    base: Path | None = None,
    tokenizer: Path | None = None,
    chat: bool = False,
    split: Split | None = None,
    seed: int = 0,
    batch: Batch = 32,
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32",
    longest: int | None = None,
    device: str = "auto",
    threads: TorchThreads = 0,
    results: Path = Path("results"),
    telling: Telling = Telling(),
) -> None:
    """Score MODEL on tasks, item by item.

    MODEL is a model folder, a GGUF file, a hub id, a PEFT adapter's folder, or a recipe, which is merged in memory alone. What
    has been scored before is not computed again; run the same command after an interruption and it goes on.

    Parameters
    ----------
    model
        A model folder, a hub id, an adapter's folder, or a recipe.
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
    seed
        Of the parts of a task.
    dtype
        Of the weights in memory.
    longest
        Tokens that the model is given at once; what its config says, where not given.
    device
        Such as cpu or cuda:0; auto is the first GPU where there is one.
    results
        The folder in which results are kept.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.evaluation import EvaluationOptions

    options = EvaluationOptions(batch, chat, dtype, longest, threads, device)
    with telling.reporter() as report:
        found = api.evaluate(
            model, read_tasks(tasks, split, seed), options=options, results=results, on_event=report.event,
            harness=harness, include=include, base=base, tokenizer=tokenizer,
        )  # fmt: skip
    if telling.in_words:
        show_evaluation(found)


def read_tasks(files: tuple[Path, ...], split: Split | None, seed: int) -> list[Task]:
    """The task files, or one part of each. Problems of all files are told at once."""
    from mergery.evaluation.reading import load_tasks
    from mergery.evaluation.splits import split_of

    return [split_of(task, split, seed=seed) if split else task for task in load_tasks(files)]


def show_evaluation(evaluation: Evaluation) -> None:
    """A model's scores as a table."""
    scores = table("task", "kind", "items", "metric", "score")
    for task in evaluation.tasks:
        for index, metric in enumerate(task.metrics):
            first = (task.task, task.kind, str(len(task.items))) if index == 0 else ("", "", "")
            arrow = "" if metric.higher else " (lower is better)"
            scores.add_row(*first, metric.name + arrow, f"{task.scores[metric.name]:.4f}")
    out = console()
    out.print(scores)
    for file in dict.fromkeys(task.file for task in evaluation.tasks if task.file):
        out.print(f"items in {file}", soft_wrap=True)
