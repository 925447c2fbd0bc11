"""How a soup is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mergery.errors import RecipeError

Strategy = Literal["uniform", "greedy", "soce"]
STRATEGIES: tuple[Strategy, ...] = ("uniform", "greedy", "soce")
WEAK = 0.5  # correlations below this are weak, where the user says nothing: the paper names none


@dataclass(frozen=True)
class SoupOptions:
    """How a soup is made.

    strategy:  uniform (equal weights), greedy (models that gain, one after another), soce (category experts).
    threshold: of soce: categories that are correlated by less go apart.
    quick:     of soce: taste some of the weights, and the best of the others by a quadratic function through these.
    seed:      of the parts into which the tasks are split.
    workers:   processes that taste soups at the same time, each with a model in memory; what is found does not depend on it.
    """

    strategy: Strategy = "greedy"
    threshold: float = WEAK
    quick: bool = False
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise RecipeError(f"no soup is called {self.strategy!r}", hint=f"one of {', '.join(STRATEGIES)}")
        if not 0 < self.threshold <= 1:
            why = "it is the size of a correlation"
            raise RecipeError(f"threshold is {self.threshold:g}", why=why, hint=f"--threshold {WEAK:g}")
        if self.workers < 1:
            raise RecipeError(f"workers is {self.workers}", why="it must be 1 or more", hint="--workers 2")
        if self.quick and self.strategy != "soce":
            raise RecipeError("quick is for soce", why="other soups taste few as it is", hint="leave it out")
