"""How a search is run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mergery.errors import RecipeError, did_you_mean

SAMPLERS = ("auto", "cma", "tpe", "gp", "quadratic", "niches", "nsga", "cycle", "random", "grid")
OF_MANY = ("auto", "nsga", "cycle", "tpe", "random", "grid")  # that can go for several goals
ONLY_MANY = ("nsga", "cycle")
WHOLE = ("niches", "cycle")  # that look at all items of every candidate


@dataclass(frozen=True)
class SearchOptions:
    """How to search. All but `minutes`, `workers`, `devices`, `ray` and `hold` decides what is found.

    sampler: cma (CMA-ES), tpe (tree-structured Parzen estimator), gp (Gaussian process), random, grid; auto is cma for two or
             more numbers, and tpe elsewhere; quadratic (a quadratic function through what was tried), niches (M2N2). For
             several goals: nsga (NSGA-II, NSGA-III for more than three), which auto is, and cycle (CycleQD).
    trials:  candidates at most.
    minutes: begin no further candidate after so many; None: no limit.
    seed:    of the sampler, and of the parts into which the tasks are split.
    early:   stop candidates that are clearly worse than the best one on a part of the items.
    pareto:  each task is a goal of its own, in place of their mean.
    anchors: items of all tasks together that a candidate is asked; its score on all is estimated by item response (MERGE3).
             0: all items.
    workers: processes that score candidates at the same time; with 1 it is this one.
    together: candidates that are drawn before any of them has been scored; 0: as many as there are workers.
    devices: of the workers, in turn; none: all GPUs where there are any.
    hold:    bytes of the models that each worker keeps in memory from candidate to candidate; None: half of what is free.
    ray:     the address of a Ray cluster whose processes are the workers (`auto`, `local`); empty: this machine's.
    """

    sampler: str = "auto"
    trials: int = 100
    minutes: float | None = None
    seed: int = 0
    early: bool = True
    pareto: bool = False
    anchors: int = 0
    workers: int = 1
    together: int = 0
    devices: tuple[str, ...] = ()
    ray: str = ""
    hold: int | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise RecipeError(f"no sampler is called {self.sampler!r}", hint=did_you_mean(self.sampler, SAMPLERS))
        if self.pareto and self.sampler not in OF_MANY:
            why, hint = "it draws candidates for one number", f"one of {', '.join(OF_MANY)}"
            raise RecipeError(f"{self.sampler} cannot go for several goals", why=why, hint=hint)
        if self.sampler in ONLY_MANY and not self.pareto:
            why = "one is the mean of all tasks"
            raise RecipeError(f"{self.sampler} is for several goals", why=why, hint="--pareto, or --sampler cma")
        if self.trials < 1:
            raise RecipeError(f"trials is {self.trials}", why="it must be 1 or more", hint="--trials 100")
        for name, least in (("workers", 1), ("together", 0), ("anchors", 0)):
            if getattr(self, name) < least:
                raise RecipeError(
                    f"{name} is {getattr(self, name)}", why=f"it must be {least} or more", hint="--workers 2"
                )
        if self.anchors and (self.pareto or self.sampler in WHOLE):
            what = "several goals" if self.pareto else self.sampler
            raise RecipeError(
                f"anchors are not for {what}", why="what each item gave is looked at", hint="leave out --anchors"
            )
        if self.ray and self.devices:
            why = "each worker of a cluster has the device that the cluster gives it"
            raise RecipeError("ray and devices do not go together", why=why, hint="leave out --devices")
        if self.hold is not None and self.hold < 0:
            raise RecipeError(
                f"hold is {self.hold}", why="it must be 0 or more", hint="leave it out for half of what is free"
            )
        if self.minutes is not None and not self.minutes > 0:
            raise RecipeError(
                f"minutes is {self.minutes}", why="it must be more than 0", hint="leave it out for no limit"
            )

    @property
    def gives_up(self) -> bool:
        """Whether a candidate may be given up on a part of the items."""
        return self.early and not (self.pareto or self.anchors or self.sampler in WHOLE)

    @property
    def width(self) -> int:
        """Candidates that are drawn before any of them has been scored."""
        return self.together or self.workers

    def plain(self) -> dict[str, Any]:
        """What belongs to the question."""
        said: dict[str, Any] = {"sampler": self.sampler, "seed": self.seed, "early": self.early, "pareto": self.pareto}
        said |= {"together": self.width} if self.width > 1 else {}
        said |= {"anchors": self.anchors} if self.anchors else {}
        return {**said, "trials": self.trials} if self.sampler == "grid" else said  # which decide a grid's points
