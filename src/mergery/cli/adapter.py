"""`mergery adapter`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from mergery.cli.common import COMMANDS, MERGING, OPTIONS, DryRun, MethodName, Writing, flowing
from mergery.cli.examples import epilogue, members
from mergery.cli.merge import write

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from mergery.planning.plan import Plan
    from mergery.recipe import Recipe

app = App(
    name="adapter",
    help="Adapters: into their model, several into one, out of a fine-tune.",
    help_format="plaintext",
    group=MERGING,
    sort_key=10,
    group_parameters=OPTIONS,
    group_commands=COMMANDS,
    help_epilogue=members("adapter"),
)


@app.command(help_epilogue=epilogue("adapter bake"))
@flowing
def bake(
    base: str,
    adapter: str,
    out: Path,
    /,
    *,
    rounding: Literal["once", "peft"] = "once",
    dtype: str | None = None,
    dry_run: DryRun = False,
    writing: Writing = Writing(),
) -> None:
    """Write the model that ADAPTER makes of BASE into the folder OUT.

    It is a merge of one model: it takes the memory of any merge, and goes on after an interruption.

    Parameters
    ----------
    base
        A model folder or hub id.
    adapter
        An adapter's folder, file or hub id; several with + between.
    out
        The folder to write.
    rounding
        once, at the very end; or peft, to the bit as its merge does.
    dtype
        Of the output; BASE's own where it is not given.
    """
    from mergery.recipe.adapting import bake_recipe

    recipe = bake_recipe(base, adapter.split("+"), rounding=rounding, dtype=dtype)
    write(recipe, out, writing, dry_run=dry_run)


@app.command(help_epilogue=epilogue("adapter merge"))
@flowing
def merge(
    *adapters: str,
    out: Path,
    rank: int | None = None,
    weights: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (),
    method: MethodName = "task_arithmetic",
    space: Literal["core", "shared", "full"] | None = None,
    calibrate: Literal["pico"] | None = None,
    base: str | None = None,
    dtype: str | None = None,
    seed: int = 0,
    dry_run: DryRun = False,
    writing: Writing = Writing(),
) -> None:
    """Make one adapter of several, of any ranks and modules, and write it into the folder OUT.

    Without --rank it is the exact sum of what they add. With a rank below the sum of theirs, the best bases of that rank for
    all of them are found first, so that small adapters are not lost. How much is kept of each is printed.

    Parameters
    ----------
    adapters
        Folders, files or hub ids.
    out
        The folder to write; peft loads it.
    rank
        Of the output's modules.
    weights
        One for each adapter; 1 where they are not given.
    method
        Any merging method.
    space
        Where to merge: core, all that the adapters span; shared, the best bases of the rank; full, multiplied out.
    calibrate
        pico damps what all adapters crowd into before they are merged, and gives the result their mean length.
    base
        The adapters' model: for DoRA, experts and modules trained whole; others need none.
    dtype
        Of the factors; float32 where it is not given.
    """
    from mergery.recipe.adapting import combine_recipe
    from mergery.report.energies import kept_lines

    output = {"rank": rank, "space": space, "calibrate": calibrate}
    recipe = combine_recipe(
        adapters,
        base=base,
        method=method,
        weights=weights,
        output={key: value for key, value in output.items() if value is not None},
        dtype=dtype,
        seed=seed,
    )
    plan = write(recipe, out, writing, dry_run=dry_run)
    if writing.in_words and not dry_run and plan.adapter is not None:
        print("\n".join(kept_lines(plan.adapter)))


@app.command(help_epilogue=epilogue("adapter extract"))
@flowing
def extract(
    finetune: str,
    out: Path,
    /,
    *,
    base: str,
    rank: int | None = None,
    energy: float | None = None,
    budget: str | None = None,
    embeddings: Literal["whole", "lora", "base"] = "whole",
    dtype: str | None = None,
    dry_run: DryRun = False,
    writing: Writing = Writing(),
) -> None:
    """Write what FINETUNE has learnt on its base as an adapter into the folder OUT.

    Give one of --rank, --energy and --budget; without any, all ranks are kept and the fine-tune can be made again. Norms and
    biases are kept whole.

    Parameters
    ----------
    finetune
        A model folder or hub id.
    out
        The folder to write; peft loads it.
    base
        The model that FINETUNE was trained from.
    rank
        Of every module.
    energy
        The share of each module's squared length that must be kept, such as 0.9: its rank is the least that does.
    budget
        What the factors may take, such as 50MB; ranks go where they hold most.
    embeddings
        Embeddings and head: whole; as factors (lora); or not at all, as in the base.
    dtype
        Of the factors; float32 where it is not given.
    """
    from mergery.errors import RecipeError
    from mergery.recipe.adapting import extract_recipe
    from mergery.recipe.reading import parse_size
    from mergery.run.extracting import ranks_by_budget, ranks_by_energy

    if sum(each is not None for each in (rank, energy, budget)) > 1:
        raise RecipeError("--rank, --energy and --budget are three ways to choose a rank", hint="give one of them")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise RecipeError(f"--energy is {energy:g}", why="it is a share: above 0, at most 1", hint="--energy 0.9")
    size = parse_size(budget) if budget is not None else 0
    ranks = None
    if energy is not None or budget is not None:
        first = extract_recipe(finetune, base, rank=1, embeddings=embeddings, dtype=dtype)
        values, cost = _looked_at(first, writing)
        ranks = ranks_by_energy(values, energy) if energy is not None else ranks_by_budget(values, cost, size)
    recipe = extract_recipe(finetune, base, rank=rank, ranks=ranks, embeddings=embeddings, dtype=dtype)
    plan = write(recipe, out, writing, dry_run=dry_run)
    if writing.in_words and not dry_run:
        _energy_table(plan)


def _looked_at(recipe: Recipe, writing: Writing) -> tuple[dict[str, np.ndarray], Callable[[str], int]]:
    """The singular values of all modules, and what a rank of each takes."""
    from mergery import api
    from mergery.run.extracting import rank_cost, singular_values

    plan = api.plan(recipe)
    try:
        with writing.reporter() as report:
            return singular_values(plan, writing.options, report.event), rank_cost(plan)
    finally:
        plan.close()


def _energy_table(plan: Plan) -> None:
    """What is kept of each kind of module."""
    from mergery.report.energies import energy_rows

    print("module               rank     kept")
    for module, ranks, share in energy_rows(plan):
        print(f"{module:<20} {ranks:<8} {'unchanged' if share is None else f'{share:.1%}'}")
