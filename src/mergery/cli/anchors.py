"""`mergery anchors` and `mergery refine`: functional dual anchors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mergery.cli.common import Json, Quiet, RecipeFile, Verbose, flowing, wait_without_spinning

TorchThreads = Annotated[int, Parameter(help="Threads of torch; 0 takes one for each core.")]
Preset = Literal["cheap", "paper"]


@flowing
def anchors(
    recipe: RecipeFile,
    out: Path,
    /,
    *,
    preset: Preset = "cheap",
    steps: int | None = None,
    count: int | None = None,
    start: Literal["weights", "gauss"] = "weights",
    distance: Literal["cos", "mse", "l1"] = "cos",
    blocks: Literal["auto", "whole", "mlp"] = "auto",
    seed: int = 0,
    threads: TorchThreads = 0,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
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
    start
        Where the search begins: rows of a model's own matrices, or small normal numbers.
    distance
        Between the outputs of a block.
    blocks
        Whole blocks, or their MLPs alone; auto takes whole ones of encoders and the MLPs of decoders.
    seed
        Of the beginning.
    """
    wait_without_spinning()
    from mergery.calibration.anchors import PRESETS
    from mergery.calibration.dual import find_all
    from mergery.cli.progress import reporter

    whole = None if blocks == "auto" else blocks == "whole"

    def options(is_whole: bool):
        given = {"steps": steps, "anchors": count}
        wanted = {key: value for key, value in given.items() if value is not None}
        return replace(PRESETS[preset, is_whole], start=start, distance=distance, seed=seed, **wanted)

    with reporter(json=json, quiet=quiet, verbose=verbose) as report:
        find_all(recipe, out, options, whole=whole, threads=threads, on_event=report.event)


@flowing
def refine(
    recipe: RecipeFile,
    anchors: Path,
    out: Path,
    /,
    *,
    preset: Preset = "cheap",
    epochs: int | None = None,
    start: Literal["merge", "base"] = "merge",
    seed: int = 0,
    threads: TorchThreads = 0,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write the merge of RECIPE to the folder OUT, its blocks refined on anchors.

    Each block's weights are moved until it answers every model's anchors as that model does: from the merge, by a coefficient
    for each number of its task vector; or from the base, freely. All else is the merge's own.

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
        Where the weights begin: at the merge, or at the base.
    seed
        Of the order of anchors.
    """
    wait_without_spinning()
    from mergery.calibration.dual import refine_all
    from mergery.calibration.refining import REFINING
    from mergery.cli.progress import reporter

    def options(is_whole: bool):
        wanted = {} if epochs is None else {"epochs": epochs}
        rate = {"rate": 5e-5} if start == "base" else {}
        return replace(REFINING[preset, is_whole], start=start, seed=seed, **rate, **wanted)

    with reporter(json=json, quiet=quiet, verbose=verbose) as report:
        refine_all(recipe, anchors, out, options, threads=threads, on_event=report.event)
