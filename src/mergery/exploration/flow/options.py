"""How a path is searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from mergery.errors import RecipeError

Sampler = Literal["greedy", "cma"]
SAMPLERS: tuple[Sampler, ...] = ("greedy", "cma")


@dataclass(frozen=True)
class FlowOptions:
    """How a path through layers is searched.

    sampler: greedy (one layer at a time left out, passed once more, or taken from another model, kept where it helps) or cma
             (CMA-ES over all layers laid out behind each other, with scales).
    repeats: how often a layer may be passed.
    trials:  paths at most.
    stretch: layers of a path at most, as a multiple of the first model's.
    seed:    of the sampler, and of the parts of the tasks.
    """

    sampler: Sampler = "greedy"
    repeats: int = 2
    trials: int = 100
    stretch: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise RecipeError(f"no sampler of paths is called {self.sampler!r}", hint=f"one of {', '.join(SAMPLERS)}")
        for name, least in (("repeats", 1), ("trials", 1), ("stretch", 1)):
            if getattr(self, name) < least:
                why = f"it must be {least} or more"
                raise RecipeError(f"{name} is {getattr(self, name)}", why=why, hint="leave it out for the default")

    def plain(self) -> dict[str, Any]:
        """What belongs to the question."""
        return {key: getattr(self, key) for key in ("sampler", "repeats", "stretch", "seed")}
