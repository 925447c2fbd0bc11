"""How a search is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergery.errors import RecipeError, did_you_mean

SAMPLERS = ("auto", "cma", "tpe", "gp", "random", "grid")


@dataclass(frozen=True)
class SearchOptions:
    """How to search. All but `minutes` decides what is found.

    sampler: cma (CMA-ES), tpe (tree-structured Parzen estimator), gp (Gaussian process), random, grid; auto is cma for two or
             more numbers, and tpe elsewhere.
    trials:  candidates at most.
    minutes: begin no further candidate after so many; None: no limit.
    seed:    of the sampler, and of the parts into which the tasks are split.
    early:   stop candidates that are clearly worse than the best one on a part of the items.
    """

    sampler: str = "auto"
    trials: int = 100
    minutes: float | None = None
    seed: int = 0
    early: bool = True

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise RecipeError(f"no sampler is called {self.sampler!r}", hint=did_you_mean(self.sampler, SAMPLERS))
        if self.trials < 1:
            raise RecipeError(f"trials is {self.trials}", why="it must be 1 or more", hint="--trials 100")
        if self.minutes is not None and not self.minutes > 0:
            raise RecipeError(
                f"minutes is {self.minutes}", why="it must be more than 0", hint="leave it out for no limit"
            )

    def plain(self) -> dict[str, Any]:
        """What belongs to the question."""
        return {"sampler": self.sampler, "seed": self.seed, "early": self.early}
