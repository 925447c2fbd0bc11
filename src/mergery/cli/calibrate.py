"""`mergery calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mergery.cli.common import Telling, flowing, wait_without_spinning

Add = Annotated[tuple[Path, ...], Parameter(consume_multiple=False)]
Texts = Annotated[tuple[str, ...], Parameter(consume_multiple=False)]
Names = Annotated[
    str,
    Parameter(help="What is measured, with commas between: gram, activation, square, fisher, gradient, sign, cross."),
]
TorchThreads = Annotated[int, Parameter(help="Threads of torch; 0 takes one for each core.")]


@flowing
def calibrate(
    model: str,
    out: Path,
    /,
    *,
    data: str,
    stats: Names = "gram",
    limit: int | None = None,
    longest: int = 512,
    labels: Literal["sampled", "empirical", "exact"] = "sampled",
    seed: int = 0,
    tokens: Texts = (),
    tokenizer: Path | None = None,
    add: Add = (),
    beside: str | None = None,
    threads: TorchThreads = 0,
    telling: Telling = Telling(),
) -> None:
    """Measure MODEL on data, and write the statistics to the folder OUT, for methods that read them.

    MODEL is a model folder, a GGUF file, a hub id, or a recipe, which is run as it is merged and never written. It runs
    block by block: no more of its weights is in memory than one block's.

    Parameters
    ----------
    model
        A model folder, a GGUF file, a hub id, a model with an adapter on it (model+adapter), or a recipe.
    out
        The folder to write: a checkpoint with a tensor for each statistic. It must not exist.
    data
        A task file of `mergery evaluate` (.jsonl), plain text, datasets:NAME[,CONFIG][:SPLIT[:COLUMN]], or
        synthetic: texts that the model draws itself.
    limit
        Take the first so many items only; how many are drawn, where they are synthetic.
    longest
        Tokens of a row; longer texts are cut into several.
    labels
        Of gradients: drawn from the model, those of the data, or all classes of a classifier.
    seed
        Of labels and texts that are drawn.
    tokens
        A text whose tokens alone count, such as '<think>', with the token before it, which foretells it. It may be given
        several times.
    tokenizer
        A folder with a tokenizer, instead of the model's own.
    add
        Statistics of the same model on other data, which are added. It may be given several times.
    beside
        Another model of the same architecture, for `cross`: how the inputs of the model's weights go with those of this one's.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.calibration.options import CalibrationOptions

    names = tuple(dict.fromkeys(name.strip() for name in stats.split(",") if name.strip()))
    options = CalibrationOptions(names, limit, longest, labels, seed, threads, tokens)
    with telling.reporter() as report:
        more = {"tokenizer": tokenizer, "add": add, "beside": beside}
        api.calibrate(model, data, out, options=options, **more, on_event=report.event)
