"""From the results of all seeds to figures: means, spreads, ranks, and what has broken since the last record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Line:
    """One method in one world, over all seeds; scores are normalised (merged over expert)."""

    name: str
    family: str
    default: tuple[float, ...]  # by seed, mean over skills
    chosen: tuple[float, ...]
    worst: tuple[float, ...]  # the worst skill, settings chosen
    cells: tuple[float, ...]  # settings chosen, by seed and skill
    optimism: float  # dev minus test of the chosen settings, mean over seeds
    tried: int
    settings: Mapping[str, Any]  # of seed 0
    seconds: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.chosen))


def lines(world: Mapping[int, Any]) -> list[Line]:
    """Every row of a world, best first."""
    seeds = [world[seed] for seed in sorted(world)]
    result = []
    for index, first in enumerate(seeds[0]["rows"]):
        each = [seed["rows"][index] for seed in seeds]
        chosen = tuple(float(np.mean(entry["chosen"])) for entry in each)
        result.append(
            Line(
                first["name"],
                first["family"],
                tuple(float(np.mean(entry["default"])) for entry in each),
                chosen,
                tuple(float(np.min(entry["chosen"])) for entry in each),
                tuple(float(score) for entry in each for score in entry["chosen"]),
                float(np.mean([entry["dev"] - score for entry, score in zip(each, chosen, strict=True)])),
                first["tried"],
                first["settings"],
                float(np.median([entry["seconds"] for entry in each])),
            )
        )
    return sorted(result, key=lambda line: -line.mean)


def margin(values: Sequence[float], items: int) -> float:
    """Half of a 95 % interval of a mean over seeds: the larger of the spread of seeds and the noise of the items."""
    noise = 1.96 * float(np.sqrt(np.mean([max(v, 0.0) * max(1.0 - v, 0.0) for v in values]) / (items * len(values))))
    if len(values) < 2:
        return noise
    student = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 2.3)
    return max(noise, student * float(np.std(values, ddof=1)) / len(values) ** 0.5)


def gain(line: Line, over: Line) -> tuple[float, float]:
    """Mean difference of two methods, paired by seed and skill, and half of its 95 % interval."""
    difference = np.array(line.cells) - np.array(over.cells)
    return float(difference.mean()), 1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5


def rank_correlation(table: Sequence[Line]) -> float:
    """Mean Spearman correlation of the methods' order between pairs of seeds."""
    scores = np.array([line.chosen for line in table]).T
    if len(scores) < 2:
        return float("nan")
    ranks = np.array([_ranks(row) for row in scores])
    pairs = [np.corrcoef(ranks[i], ranks[j])[0, 1] for i in range(len(ranks)) for j in range(i)]
    return float(np.mean(pairs))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from one; equal values share their mean rank."""
    order = values.argsort()
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):
        ranks[values == value] = ranks[values == value].mean()
    return ranks


def record(results: Mapping[str, Mapping[int, Any]], items: int) -> dict[str, dict[str, list[float]]]:
    """What later runs are held to: mean and margin of every method in every world."""
    return {
        world: {
            line.name: [round(line.mean, 4), round(max(0.01, margin(line.chosen, items)), 4)]
            for line in lines(results[world])
        }
        for world in ("sequences", "digits")
    }


def broken(now: Mapping[str, Mapping[str, Sequence[float]]], before: Mapping[str, Any]) -> list[str]:
    """Methods that score less than the record says by more than its margin, and methods that are gone."""
    wrong = []
    for world, methods in before.items():
        for name, (mean, spread) in methods.items():
            if name not in now[world]:
                wrong.append(f"{world}: {name} is gone")
            elif now[world][name][0] < mean - spread:
                wrong.append(
                    f"{world}: {name} scores {now[world][name][0]:.3f}; the record is {mean:.3f} ± {spread:.3f}"
                )
    return wrong
