"""How a choice is made for the user."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mergery.errors import RecipeError


@dataclass(frozen=True)
class AutoOptions:
    """minutes: of the whole, nearly: what has begun is finished. seed: of the parts of the tasks, and of samplers. workers:
    processes that score models at the same time, each with one in memory.
    """

    minutes: float = 30.0
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise RecipeError(f"workers is {self.workers}", why="it must be 1 or more", hint="--workers 2")
        if not self.minutes > 0:
            raise RecipeError(
                f"the budget is {self.minutes:g} minutes", why="it must be more than 0", hint="--budget 30m"
            )


def parse_budget(text: str) -> float:
    """Minutes of a budget such as `30m`, `2h`, `90s` or `1h30m`. Raises RecipeError."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text.replace(" ", ""))
    if not parts or "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        why = "it is a number of hours (h), minutes (m) or seconds (s)"
        raise RecipeError(f"the budget is {text!r}", why=why, hint="--budget 30m")
    return sum(float(number) * {"h": 60.0, "m": 1.0, "s": 1 / 60}[unit] for number, unit in parts)
