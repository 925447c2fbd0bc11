"""What is measured of a model, and on how much."""

from __future__ import annotations

from dataclasses import dataclass

from mergery.checkpoints.statistics import KINDS, OF_GRADIENTS
from mergery.errors import RecipeError, did_you_mean

LONGEST = 512  # tokens of a row
LABELS = ("sampled", "empirical", "exact")


@dataclass(frozen=True)
class CalibrationOptions:
    """What is measured, and on how much.

    stats:   gram, activation, square, fisher, gradient, sign, cross (beside another model).
    limit:   the first so many items of the data; all where None.
    longest: tokens of a row; what the model takes, if that is less.
    labels:  of gradients: `sampled` from the model, `empirical` (the data's), `exact` (all classes).
    seed:    of sampled labels, and of texts that are drawn.
    tokens:  texts of the tokens whose inputs count, with the token before each, which foretells it; all where there are none.
    """

    stats: tuple[str, ...] = ("gram",)
    limit: int | None = None
    longest: int = LONGEST
    labels: str = "sampled"
    seed: int = 0
    threads: int = 0  # of torch; 0 takes one for each core
    tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for stat in self.stats:
            if stat not in KINDS:
                raise RecipeError(f"unknown statistic {stat!r}", hint=did_you_mean(stat, KINDS))
        if not self.stats:
            raise RecipeError("no statistic is wanted", hint=f"known here: {', '.join(KINDS)}")
        of_gradients = [stat for stat in self.stats if stat in OF_GRADIENTS]
        if self.tokens and of_gradients:
            why = "the gradient is that of a whole example"
            what, hint = f"{of_gradients[0]} is of all tokens", "leave out --tokens, or --stats gram,activation"
            raise RecipeError(what, why=why, hint=hint)
        if self.labels != "empirical" and (signed := [stat for stat in of_gradients if stat != "fisher"]):
            why = f"over {self.labels} labels it is zero but for chance"
            raise RecipeError(f"{signed[0]} is of the data's own labels", why=why, hint="--labels empirical")
        if self.labels not in LABELS:
            raise RecipeError(f"unknown labels {self.labels!r}", hint=did_you_mean(self.labels, LABELS))
        for name, least in (("limit", 1), ("longest", 2), ("threads", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}", why=f"it must be {least} or more", hint=f"{name}: {least}")
