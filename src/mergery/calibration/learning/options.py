"""How weights are learnt."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from mergery.calibration.options import LONGEST
from mergery.errors import RecipeError, did_you_mean

Objective = Literal["entropy", "labels", "distill", "nsc"]
By = Literal["model", "layer", "expert", "tensor"]
Range = Literal["unit", "free", "shares"]

OBJECTIVES: dict[str, str] = {
    "entropy": "the entropy of the merged model's answers",
    "labels": "the cross-entropy of the data's answers",
    "distill": "the distance to each model's own answers",
    "nsc": "the share of activations outside of what each model reads",
}
BY = ("model", "layer", "expert", "tensor")
RANGES = ("unit", "free", "shares")
STEPS, RATE = 300, 3e-3


@dataclass(frozen=True)
class LearnOptions:
    """How weights are learnt.

    objective: what is made small: see `OBJECTIVES`.
    by:        one weight for each model; for each model and layer; the same, and one for each expert of a mixture; or for each
               model and tensor.
    range:     of the weights: `unit`, between 0 and 1; `free`; `shares`, which are positive and sum to one. None: shares where
               the method averages, else unit for entropy, and free for what has something to hold on to.
    start:     the weight of each model to begin with; None: the recipe's own.
    batch:     rows of each file in a step. limit, longest: items of each file, and tokens of each.
    rank:      for `nsc`: directions that a model reads, at most, of each matrix.
    """

    objective: Objective = "entropy"
    by: By = "tensor"
    range: Range | None = None
    start: float | None = None
    steps: int = STEPS
    rate: float = RATE
    batch: int = 16
    limit: int | None = None
    longest: int = LONGEST
    rank: int = 32
    seed: int = 0
    threads: int = 0  # of torch; 0 takes one for each core

    def __post_init__(self) -> None:
        for name, known in (("objective", tuple(OBJECTIVES)), ("by", BY), ("range", (None, *RANGES))):
            value = getattr(self, name)
            if value not in known:
                words = [each for each in known if each is not None]
                raise RecipeError(f"unknown {name} {value!r}", hint=did_you_mean(str(value), words))
        for name, least in (("steps", 0), ("batch", 1), ("limit", 1), ("longest", 2), ("rank", 1), ("threads", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", why=f"it must be {least} or more", hint=f"{name}: {least}")
        if not self.rate > 0.0:
            raise RecipeError(f"rate is {self.rate}", why="it must be above zero", hint=f"rate: {RATE}")

    def plain(self) -> dict[str, Any]:
        """What decides the result, as plain data."""
        return {name: value for name, value in asdict(self).items() if name != "threads"}
