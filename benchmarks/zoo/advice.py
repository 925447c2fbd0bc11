"""What the zoo's figures say to someone who has models to merge; every sentence is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.pages import figures
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
        *waiting(tuned[:3]),
        "- **You do not want to wait**, or the models are very large: "
        f"{first(sorted(streamed, key=lambda each: -each.chosen), 3)}, and without tuning "
        f"{first(sorted(streamed, key=lambda each: -each.default), 1)}. They take seconds to minutes.",
    ]
    if served:
        rest.append(
            "- **You know the task when you use the model**, and may keep a packed model for each: "
            f"{first(sorted(served, key=lambda each: -each.default), 2)}."
        )
    fragile = sorted((each for each in merged if each.chosen - each.default > TUNING), key=lambda each: each.name)
    if fragile:
        names = ", ".join(f"`{each.name}`" for each in fragile)
        rest.append(
            f"- **Not with default settings**: those of {names} score at least {TUNING:g} less than settings chosen here."
        )
    return [
        "## In short",
        "",
        "Means over both worlds, with default and with chosen settings:",
        "",
        *rest,
        "",
        "These are small models, trained for this comparison; the order on yours may be another. They say what to try first."
        " `mergery evaluate` and `mergery compare` say what is better on your items, and whether two models can be told apart.",
        "",
    ]


def waiting(best: Sequence[Record]) -> list[str]:
    """How long the best take, against an average of the same models."""
    found = [figures("methods-cost").get("methods", {}).get(each.name.split(",")[0]) for each in best]
    times = sorted(each["linear"] for each in found if each)
    if not times:
        return []
    return [
        f"- **What that costs**: these take {times[0]:.0f} to {times[-1]:.0f} times as long as `linear`. For models of 8B that"
        " is most of a day: see [how long you wait](choosing.md#how-long-you-wait)."
    ]


def first(ordered: Sequence[Record], count: int) -> str:
    return ", ".join(str(each) for each in ordered[:count])
