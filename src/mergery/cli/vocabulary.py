"""`mergery vocabulary`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from mergery.cli.common import COMMANDS, MERGING, OPTIONS, DryRun, Writing, flowing
from mergery.cli.examples import epilogue, members
from mergery.cli.merge import write

app = App(
    name="vocabulary",
    help="Tokens and tokenizers of models.",
    help_format="plaintext",
    group=MERGING,
    sort_key=9,
    group_parameters=OPTIONS,
    group_commands=COMMANDS,
    help_epilogue=members("vocabulary"),
)


@app.command(help_epilogue=epilogue("vocabulary transplant"))
@flowing
def transplant(
    model: str,
    out: Path,
    /,
    *,
    donor: Annotated[str, Parameter(name="--from")],
    fill: Literal["omp", "subword", "mean", "random", "zero"] = "omp",
    neighbours: Annotated[int, Parameter(name=("--neighbours", "-k"))] = 64,
    dtype: str | None = None,
    seed: int = 0,
    dry_run: DryRun = False,
    writing: Writing = Writing(),
) -> None:
    """Give MODEL the tokenizer of another one, and write the model folder OUT.

    Rows of tokens that both have are copied. The other rows are made, by default by orthogonal matching pursuit: each
    new token's row is, in the donor, a sum of a few rows of shared tokens; the same sum is taken of MODEL's own rows.
    All that is not a row of a token is copied. It is a merge of one model, with lock and card, and goes on after an
    interruption.

    Parameters
    ----------
    model
        A model folder or hub id.
    out
        The folder to write.
    donor
        The model whose tokenizer MODEL gets; its embeddings may have another width.
    fill
        How rows of new tokens are made: omp; subword, the mean of the rows of the pieces into which MODEL's own tokenizer
        cuts the token; mean, of all rows; random, with their mean and spread; zero.
    neighbours
        Of omp: the largest number of tokens of which a row is made.
    dtype
        Of the output; MODEL's own where it is not given.
    seed
        Of random rows.
    """
    from mergery.recipe.transplanting import transplant_recipe

    recipe = transplant_recipe(model, donor, fill=fill, neighbours=neighbours, dtype=dtype, seed=seed)
    write(recipe, out, writing, dry_run=dry_run)
