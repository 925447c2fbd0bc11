"""`mergery search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mergery.cli.asking import Asking, Tasks
from mergery.cli.common import RecipeFile, Telling, console, flowing, wait_without_spinning

Early = Annotated[
    bool, Parameter(negative="--no-early", help="Give up candidates that are clearly worse than the best.")
]


@flowing
def search(
    recipe: RecipeFile,
    out: Path,
    /,
    *,
    tasks: Tasks,
    trials: int = 100,
    minutes: float | None = None,
    sampler: Literal["auto", "cma", "tpe", "gp", "quadratic", "niches", "nsga", "cycle", "random", "grid"] = "auto",
    pareto: bool = False,
    seed: int = 0,
    early: Early = True,
    anchors: int = 0,
    workers: int = 1,
    together: int = 0,
    devices: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    ray: str = "",
    hold: str = "auto",
    asking: Asking = Asking(),
    telling: Telling = Telling(),
) -> None:
    """Find values for what RECIPE leaves open, and write the recipe that was found into the folder OUT.

    Open are settings that say {search: [low, high]} or {choose: [one, other]} in place of a value. Half of the tasks' items
    are searched with, a quarter is for choosing among the best few, and a quarter to report on. No candidate is written:
    one model is in memory. Run the same command after an interruption and it goes on.

    Parameters
    ----------
    recipe
        A YAML file with open settings.
    out
        The folder of the search: the study, the recipe that was found (recipe.yaml), and all scores (search.json).
    trials
        Candidates at most.
    minutes
        Begin no further candidate after so many.
    sampler
        What draws candidates: CMA-ES, a Parzen estimator, a Gaussian process, a quadratic function through what was tried,
        natural niches (M2N2), chance, or a grid. auto takes cma for two or more numbers, else tpe. For several goals: nsga,
        which auto takes, or cycle (CycleQD).
    pareto
        Each task is a goal of its own. What is written is the knee of the front: the candidate that stands out most among
        those that none beats in all; search.json has the others, and front.png shows them.
    seed
        Of the sampler, and of the parts of the tasks.
    anchors
        Items that a candidate is asked, of all tasks together, once sixteen candidates were asked all: its score on all is
        estimated by item response (MERGE3), and how far such estimates are off is said. 0 asks all items of each.
    workers
        Processes that score candidates at the same time, each with a model in memory.
    together
        Candidates that are drawn before any of them has been scored; as many as there are workers, where not given. What is
        found depends on it, and not on the number of workers.
    devices
        Of the workers in turn, such as cuda:0 cuda:1; all GPUs where there are any.
    hold
        Memory in which each worker keeps what it reads of the models, from candidate to candidate, such as 8GB; auto is half of
        what is free, 0 none. What is found does not depend on it.
    ray
        The address of a Ray cluster whose processes are the workers: auto, local, or one of its own.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.exploration.options import SearchOptions
    from mergery.recipe.reading import parse_size

    room = None if hold == "auto" else 0 if hold == "0" else parse_size(hold)
    options = SearchOptions(
        sampler, trials, minutes, seed, early, pareto, anchors, workers, together, devices, ray, room
    )
    with telling.reporter() as report:
        found = api.search(
            recipe,
            out,
            tasks,
            options=options,
            evaluation_options=asking.options,
            tokenizer=asking.tokenizer,
            on_event=report.event,
        )
    if telling.in_words:
        for each in found.finalists:
            values = ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in each.values.items()
            )
            goals = "".join(f"; {name} {score:.4f}" for name, score in each.goals.items())
            told = f"{each.score:.4f} on search, {each.validation:.4f} on validation items{goals} ({values})"
            console().print(f"{each.name}{' (chosen)' * (each is found.chosen)}: {told}")
        for archive in found.archives:
            for line in archive.words:
                console().print(line, markup=False, highlight=False)
        if found.trust is not None:
            console().print(found.trust.words)
        for name, why in found.left_out.items():
            console().print(f"{name} was not scored: {why}")
        for line in found.report.words:
            console().print(line)
        console().print(f"next: mergery merge {found.recipe} OUT")
