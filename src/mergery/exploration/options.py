"""How a search is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergery.errors import RecipeError, did_you_mean

SAMPLERS = ("auto", "cma", "tpe", "gp", "nsga", "random", "grid")
OF_MANY = ("auto", "nsga", "tpe", "random", "grid")  # that can go for several goals


@dataclass(frozen=True)
class SearchOptions:
    """How to search. All but `minutes` decides what is found.

    sampler: cma (CMA-ES), tpe (tree-structured Parzen estimator), gp (Gaussian process), random, grid; auto is cma for two or
             more numbers, and tpe elsewhere. For several goals: nsga (NSGA-II, NSGA-III for more than three), which auto is.
    trials:  candidates at most.
    minutes: begin no further candidate after so many; None: no limit.
    seed:    of the sampler, and of the parts into which the tasks are split.
    early:   stop candidates that are clearly worse than the best one on a part of the items.
    pareto:  each task is a goal of its own, in place of their mean.
    """

    sampler: str = "auto"
    trials: int = 100
    minutes: float | None = None
    seed: int = 0
    early: bool = True
    pareto: bool = False

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise RecipeError(f"no sampler is called {self.sampler!r}", hint=did_you_mean(self.sampler, SAMPLERS))
        if self.pareto and self.sampler not in OF_MANY:
            why, hint = "it draws candidates for one number", f"one of {', '.join(OF_MANY)}"
            raise RecipeError(f"{self.sampler} cannot go for several goals", why=why, hint=hint)
        if self.sampler == "nsga" and not self.pareto:
            raise RecipeError(
                "nsga is for several goals", why="one is the mean of all tasks", hint="--pareto, or --sampler cma"
            )
        if self.trials < 1:
            raise RecipeError(f"trials is {self.trials}", why="it must be 1 or more", hint="--trials 100")
        if self.minutes is not None and not self.minutes > 0:
            raise RecipeError(
                f"minutes is {self.minutes}", why="it must be more than 0", hint="leave it out for no limit"
            )

    def plain(self) -> dict[str, Any]:
        """What belongs to the question."""
        said = {"sampler": self.sampler, "seed": self.seed, "early": self.early, "pareto": self.pareto}
        return {**said, "trials": self.trials} if self.sampler == "grid" else said  # which decide a grid's points
