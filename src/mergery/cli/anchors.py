"""`mergery anchors` and `mergery refine`: functional dual anchors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from mergery.cli.common import (
    COMMANDS,
    MEASURING,
    OPTIONS,
    DeviceName,
    Document,
    RecipeFile,
    Telling,
    console,
    flowing,
    print_json,
    table,
    wait_without_spinning,
)
from mergery.cli.examples import epilogue

TorchThreads = Annotated[int, Parameter(help="Threads of torch; 0 takes one for each core.")]
Preset = Literal["cheap", "paper"]
Statistics = Annotated[tuple[str, ...], Parameter(consume_multiple=False)]

app = App(
    name="anchors",
    help_format="plaintext",
    help_epilogue=epilogue("anchors"),
    group=MEASURING,
    sort_key=3,
    group_parameters=OPTIONS,
    group_commands=COMMANDS,
    usage="Usage: mergery anchors [OPTIONS] RECIPE OUT",
)


@app.default
@flowing
def anchors(
    recipe: RecipeFile,
    out: Path,
    /,
    *,
    preset: Preset = "cheap",
    steps: int | None = None,
    count: int | None = None,
    tokens: int | None = None,
    start: Literal["weights", "gauss"] = "weights",
    distance: Literal["cos", "mse", "l1"] = "cos",
    cosine: Literal["tensor", "block"] = "tensor",
    blocks: Literal["auto", "whole", "mlp"] = "auto",
    seed: int = 0,
    threads: TorchThreads = 0,
    device: DeviceName = "cpu",
    telling: Telling = Telling(),
) -> None:
    """Find functional dual anchors of the models of RECIPE, and keep them in the folder OUT.

    Anchors are made-up inputs of a block that stand for what a model has learnt: the gradient that they give the base's weights
    points along the task vector. No data are needed. Run the same command after an interruption and it goes on.

    Parameters
    ----------
    recipe
        A recipe whose merge has a base and models; its method does not matter here.
    out
        The folder to write. It must not exist.
    preset
        The settings of the paper, or cheaper ones with 40 steps.
    steps
        Of the search, instead of the preset's.
    count
        Anchors of each block and model, instead of the preset's.
    tokens
        Of each anchor of whole blocks, instead of the preset's 5.
    start
        Where the search begins: rows of a model's own matrices, or small normal numbers.
    distance
        Between the outputs of a block.
    cosine
        Of each tensor's gradient with its task vector, added up, or of all of a block's together.
    blocks
        Whole blocks, or their MLPs alone; auto takes whole ones of encoders and the MLPs of decoders.
    seed
        Of the beginning.
    """
    wait_without_spinning()
    from dataclasses import replace

    from mergery import api
    from mergery.calibration.anchors.search import PRESETS

    given = {"steps": steps, "anchors": count, "tokens": tokens}
    wanted: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    wanted |= {"start": start, "distance": distance, "aggregate": cosine, "seed": seed}
    with telling.reporter() as report:
        api.find_anchors(
            recipe,
            out,
            options=lambda whole: replace(PRESETS[preset, whole], **wanted),
            whole=None if blocks == "auto" else blocks == "whole",
            threads=threads,
            device=device,
            on_event=report.event,
        )


@app.command(help_epilogue=epilogue("anchors inspect"))
@flowing
def inspect(
    recipe: RecipeFile,
    anchors: Path,
    /,
    *,
    statistics: Statistics = (),
    plot: Path | None = None,
    json: Document = False,
) -> None:
    """Show what anchors are like: their spectra, and what they share with task vectors and with data.

    A spectrum is that of the anchors of one block and model; its long tail is told by how many directions hold nine tenths of
    the energy. Kept is the share of the task vectors of the block's matrices along the leading fifth of the directions of
    their inputs, when the anchors pass the block: a fifth by chance. With statistics, alike says how much of that fifth is
    shared with the leading fifth of the inputs that data have given; again a fifth by chance.

    Parameters
    ----------
    recipe
        The recipe for which the anchors were found, or another with its models.
    anchors
        A folder that `mergery anchors` wrote.
    statistics
        Gram matrices of a model on data, as NAME=FOLDER, from `mergery calibrate`; may be given several times.
    plot
        Also draw the spectra, into a file that ends in .png, .svg or .pdf.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.errors import RecipeError

    folders = {}
    for each in statistics:
        name, equals, folder = each.partition("=")
        if not equals:
            raise RecipeError(f"--statistics {each!r} names no model", hint=f"--statistics NAME={each}")
        folders[name] = folder
    facts = api.inspect_anchors(recipe, anchors, statistics=folders, plot=plot)
    if json:
        print_json(facts)
        return
    out = console()
    rows = table("block", "model", "1 - cos", "directions of 90 %", "kept", *(["alike"] if folders else []))
    for each in facts["anchors"]:
        first, last = each["losses"]
        spread = f"{each['directions_at_first']} -> {each['directions']} of {facts['width']}"
        cells = [each["block"], each["model"], f"{first:.3f} -> {last:.3f}", spread, _share(each["kept"])]
        rows.add_row(*cells, *([_share(each["alike"])] if folders else []))
    out.print(rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


@flowing
def refine(
    recipe: RecipeFile,
    anchors: Path,
    out: Path,
    /,
    *,
    preset: Preset = "cheap",
    epochs: int | None = None,
    start: Literal["merge", "models", "base"] = "merge",
    seed: int = 0,
    threads: TorchThreads = 0,
    device: DeviceName = "cpu",
    telling: Telling = Telling(),
) -> None:
    """Write the merge of RECIPE to the folder OUT, its blocks refined on anchors.

    Each block's weights are moved until it answers every model's anchors as that model does: from the merge, by a coefficient
    for each number of its task vector, or of each model's; or from the base, freely. All else is the merge's own. Run the same
    command after an interruption and it goes on.

    Parameters
    ----------
    recipe
        Any recipe that merges the models of the anchors over their base.
    anchors
        A folder that `mergery anchors` wrote.
    out
        The folder to write. It must not exist.
    preset
        The settings of the paper, or cheaper ones with 15 passes over the anchors.
    epochs
        Passes over the anchors, instead of the preset's; the best number depends on the models.
    start
        Where the weights begin, and what is learnt: at the merge, by coefficients of its task vector or of each model's; or at
        the base.
    seed
        Of the order of anchors.
    """
    wait_without_spinning()
    from dataclasses import replace

    from mergery import api
    from mergery.calibration.anchors.refining import REFINING

    wanted: dict[str, Any] = {"start": start, "seed": seed}
    wanted |= {} if epochs is None else {"epochs": epochs}
    wanted |= {"rate": FREE_RATE} if start == "base" else {}
    with telling.reporter() as report:
        api.refine(
            recipe,
            anchors,
            out,
            options=lambda whole: replace(REFINING[preset, whole], **wanted),
            threads=threads,
            device=device,
            on_event=report.event,
        )


FREE_RATE = 5e-5
"""The authors' rate for weights that begin at the base."""
