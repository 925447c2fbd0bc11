"""`mergery learn`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mergery.cli.common import RecipeFile, Telling, flowing, wait_without_spinning

Data = Annotated[tuple[str, ...], Parameter(consume_multiple=False)]
Range = Annotated[Literal["unit", "free", "shares"] | None, Parameter(name="range")]
TorchThreads = Annotated[int, Parameter(help="Threads of torch; 0 takes one for each core.")]


@flowing
def learn(
    recipe: RecipeFile,
    out: Path,
    /,
    *,
    data: Data,
    objective: Literal["entropy", "labels", "distill", "nsc"] = "entropy",
    by: Literal["model", "layer", "expert", "tensor"] = "tensor",
    within: Range = None,
    start: float | None = None,
    steps: int = 300,
    rate: float = 3e-3,
    batch: int = 16,
    limit: int | None = None,
    longest: int = 512,
    rank: int = 32,
    seed: int = 0,
    tokenizer: Path | None = None,
    threads: TorchThreads = 0,
    telling: Telling = Telling(),
) -> None:
    """Learn how much of each model goes into the merge of RECIPE, and write the recipe OUT with these weights.

    What is learnt is settings: OUT is a recipe as any other. One merged model and its gradient are in memory, and what each
    model adds stands in files beside OUT as long as it takes. Run the same command after an interruption and it goes on.

    Parameters
    ----------
    recipe
        A recipe whose method is a sum of what each model adds at its weight: task_arithmetic, linear, dare_linear,
        breadcrumbs, or ties with function: sum and vote: alike.
    out
        The recipe to write. It must not exist.
    data
        A task file of `mergery evaluate` (.jsonl) or plain text for all models; or MODEL=FILE, once for each model.
    objective
        What is made small: the entropy of answers, the cross-entropy of the data's answers (labels), the distance to each
        model's own answers (distill), or the share of activations that no change of the model reads (nsc).
    by
        Whether there is a weight for each model, for each model and layer, for each expert of a mixture as well, or for each
        model and tensor.
    within
        Where weights stay: between 0 and 1 (unit), anywhere (free), or above 0 with a sum of 1 (shares). Without it, shares for
        linear, unit for entropy, and else free.
    start
        The weight of every model to begin with, instead of the recipe's own.
    steps
        Of Adam.
    rate
        Of Adam: about how far a weight moves in a step.
    batch
        Rows of each file in a step.
    limit
        Take the first so many items of each file only.
    longest
        Tokens of a row; longer texts are cut into several.
    rank
        Of nsc: directions that a model reads, at most, of each matrix.
    seed
        Of the order of rows.
    tokenizer
        A folder with a tokenizer, instead of the merge's own.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.calibration.learning.options import LearnOptions

    options = LearnOptions(objective, by, within, start, steps, rate, batch, limit, longest, rank, seed, threads)
    with telling.reporter() as report:
        api.learn(recipe, named(data), out, options=options, tokenizer=tokenizer, on_event=report.event)


def named(data: tuple[str, ...]) -> dict[str, str]:
    """Files by the names of the models to which they belong. Raises RecipeError."""
    from mergery.errors import RecipeError

    found: dict[str, str] = {}
    for each in data:
        model, equals, file = each.partition("=")
        name, path = (model, file) if equals and not Path(each).exists() else ("", each)
        if name in found:
            what = f"--data names {name!r} twice" if name else "--data names two files for all models"
            raise RecipeError(what, hint="MODEL=FILE, once for each model, or put the texts into one file")
        found[name] = path
    return found
