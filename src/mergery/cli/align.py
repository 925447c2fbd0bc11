"""`mergery align`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mergery.cli.common import DryRun, Writing, flowing

Kind = Literal["residual", "mlp", "heads", "qk", "vo", "experts", "rotation"]
Spaces = Annotated[tuple[Kind, ...], Parameter(consume_multiple=True)]


@flowing
def align(
    model: str,
    out: Path,
    /,
    *,
    to: str,
    method: Literal["weights", "activations", "learned", "straight-through", "transport"] = "weights",
    spaces: Spaces = (),
    data: str | None = None,
    samples: int | None = None,
    length: int | None = None,
    steps: int | None = None,
    rate: float | None = None,
    epsilon: float | None = None,
    join: Literal["mean", "only_resid"] | None = None,
    dtype: str | None = None,
    check: bool = False,
    dry_run: DryRun = False,
    writing: Writing = Writing(),
) -> None:
    """Write MODEL in the coordinates of another model of its architecture, as the model folder OUT.

    The order of a model's neurons, heads, channels and experts, and the matrices between its queries and keys and between its
    values and outputs, change nothing that it computes; two models that were trained by themselves have other ones, and their
    average is no model. Here those of MODEL are found in which its weights are closest to the reference's, or its activations
    most alike. OUT computes what MODEL does, and can be merged with the reference. The transform is kept in OUT/transform.

    By transport a unit of OUT is an average of MODEL's units (OTFusion), and MODEL may have other widths than the
    reference. Such a model computes something else: it is there to be merged.

    Parameters
    ----------
    model
        A model folder or hub id.
    out
        The folder to write.
    to
        The reference: the model whose coordinates MODEL gets.
    method
        By what units are matched: weights, which need no data, or activations on --data. learned and straight-through begin
        with weights and go on by the loss of the model in the middle of both on --data; both must fit into memory. transport
        finds soft maps, by weights, or by activations where there is --data.
    spaces
        What is aligned, of residual (channels), mlp (neurons), heads, qk (queries with keys), vo (values with outputs) and
        experts; all of these where nothing is said. rotation is a rotation of the residual stream in place of an order of its
        channels.
    data
        Texts, for all methods but weights: a task file (.jsonl) or plain text.
    samples
        The first so many items of the data; 64 where nothing is said.
    length
        Tokens of a row at most; 256 where nothing is said.
    steps
        Steps that are learnt, each on 16 texts; 400 where nothing is said, 100 of straight-through.
    rate
        How large these are; 0.1 where nothing is said.
    epsilon
        Of transport: how soft its maps are, as a share of the largest cost; 0 is exact. 0.06 by weights and 0.08 by
        activations where nothing is said.
    join
        Of transport: whether the residual stream is mapped by all places that say something of it (mean), or by the embeddings
        (only_resid).
    dtype
        Of the output; MODEL's own where nothing is said.
    check
        Run MODEL and OUT on a few tokens, and say so where they answer otherwise; both must fit into memory.
    """
    from mergery import api
    from mergery.alignment.running import align_recipe, plan_of
    from mergery.cli.merge import say_beforehand
    from mergery.errors import RecipeError
    from mergery.recipe.aligning import NEEDY

    if method in NEEDY and data is None:
        what, why = NEEDY[method]
        raise RecipeError(what, why=why, hint="--data texts.jsonl")
    said = {"method": method, "spaces": spaces, "data": data, "samples": samples, "length": length, "dtype": dtype}
    said |= {"steps": steps, "rate": rate, "epsilon": epsilon, "join": join}
    if dry_run:
        recipe = align_recipe(model, to, check=check, **said)  # type: ignore[arg-type]
        say_beforehand(plan_of(recipe), out, writing.options, writing)
        return
    more = {"check": check, "options": writing.options, "replace": writing.replace, "restart": writing.restart}
    with writing.reporter() as report:
        api.align(model, to, out, **said, **more, on_event=report.event)  # type: ignore[arg-type]
