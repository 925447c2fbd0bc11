"""`mergery flow`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mergery.cli.asking import Asking, Tasks
from mergery.cli.common import Telling, console, flowing, wait_without_spinning


@flowing
def flow(
    model: str,
    /,
    *others: str,
    out: Path,
    tasks: Tasks,
    sampler: Literal["greedy", "cma"] = "greedy",
    repeats: int = 2,
    trials: int = 100,
    stretch: float = 1.5,
    seed: int = 0,
    asking: Asking = Asking(),
    telling: Telling = Telling(),
) -> None:
    """Find a better order of layers, through MODEL and the OTHERS, and write its recipe into the folder OUT.

    No weight is changed (data-flow space, arXiv 2403.13187): layers are left out, passed again, or taken from another model.
    Embeddings, first layer, last layer and head are MODEL's. Each layer is in memory once. The recipe is of a plain stacked
    model, which transformers loads as any other; with scales, they are folded into its weights, and its logits compared.

    Parameters
    ----------
    model
        The folder of the model that the path begins with.
    others
        Models with layers of the same shape.
    out
        The folder to write: the recipe (recipe.yaml) and all that was tried (flow.json).
    sampler
        greedy changes one layer at a time and keeps what helps; cma is CMA-ES over all, and scales the input of each layer.
    repeats
        How often all layers are laid out behind each other: a layer may be passed so many times.
    trials
        Paths at most.
    stretch
        Layers of a path at most, as a multiple of MODEL's.
    seed
        Of the sampler, and of the parts of the tasks.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.exploration.flow.options import FlowOptions

    options = FlowOptions(sampler, repeats, trials, stretch, seed)
    with telling.reporter() as report:
        found = api.flow(
            [model, *others], out, tasks, options=options, evaluation_options=asking.options, tokenizer=asking.tokenizer,
            on_event=report.event,
        )  # fmt: skip
    if telling.in_words:
        screen = console()
        scaled = any(hop.scale != 1.0 for hop in found.path.hops)
        hops = [f"{hop.model}:{hop.layer}" + (f" x {hop.scale:.3g}" if scaled else "") for hop in found.path.hops]
        screen.print(f"path: {', '.join(hops)}")
        screen.print(f"{found.score:.4f} on the items to search with, against {found.start:.4f} of the model itself")
        for line in found.report.words:
            screen.print(line)
        screen.print(f"next: mergery merge {found.recipe} OUT")
