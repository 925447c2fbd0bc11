"""What the zoo's figures say to someone who has models to merge; every sentence is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.zoo.summary import Line

STREAMED = ("average", "arithmetic", "sparse", "span")  # families that need no matrix as a whole
TUNING = 0.1  # what the defaults may lose to chosen settings


@dataclass(frozen=True)
class Record:
    """One method over the worlds."""

    name: str
    family: str
    default: float
    chosen: float
    seconds: float

    def __str__(self) -> str:
        return f"`{self.name}` ({self.default:.3f}, {self.chosen:.3f})"


def records(tables: Mapping[str, Sequence[Line]]) -> list[Record]:
    """Every method, means over the worlds."""
    found: dict[str, list[Line]] = {}
    for table in tables.values():
        for line in table:
            found.setdefault(line.name, []).append(line)
    return [
        Record(
            name,
            each[0].family,
            float(np.mean([np.mean(line.default) for line in each])),
            float(np.mean([line.mean for line in each])),
            float(np.mean([line.seconds for line in each])),
        )
        for name, each in found.items()
    ]


def in_short(tables: Mapping[str, Sequence[Line]]) -> list[str]:
    """The section that opens the page."""
    every = records(tables)
    merged = [each for each in every if each.family != "serving"]
    served = [each for each in every if each.family == "serving"]
    streamed = [each for each in merged if each.family in STREAMED]
    untuned = sorted(merged, key=lambda each: -each.default)
    tuned = sorted(merged, key=lambda each: -each.chosen)
    baseline = next(each for each in merged if each.name == "task_arithmetic")
    rest = [
        f"- **You cannot tune**: {first(untuned, 3)}. The first figure is with default settings.",
        f"- **You have validation items**: {first(tuned, 3)}; task arithmetic, tuned as well, has {baseline.chosen:.3f}.",
        "- **The model is so large that each matrix should be read only in pieces**: "
        f"{first(sorted(streamed, key=lambda each: -each.chosen), 3)}, and without tuning "
        f"{first(sorted(streamed, key=lambda each: -each.default), 1)}.",
    ]
    if served:
        rest.append(
            "- **Tasks are known when the model is used**, and one packed file may serve a model for each: "
            f"{first(sorted(served, key=lambda each: -each.default), 2)}."
        )
    fragile = sorted((each for each in merged if each.chosen - each.default > TUNING), key=lambda each: each.name)
    if fragile:
        names = ", ".join(f"`{each.name}`" for each in fragile)
        rest.append(
            f"- **Not as they come**: the defaults of {names} lose more than {TUNING:g} to settings chosen here."
        )
    return [
        "## In short",
        "",
        "Means over both worlds, with default and with chosen settings:",
        "",
        *rest,
        "",
        "Small models of one kind each cannot say what is best for yours; they say what to try first. `mergery evaluate` and "
        "`mergery compare` say what is better on your items, and whether the difference is noise.",
        "",
    ]


def first(ordered: Sequence[Record], count: int) -> str:
    return ", ".join(str(each) for each in ordered[:count])
