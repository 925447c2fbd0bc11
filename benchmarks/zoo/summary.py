"""From the results of all seeds to figures: means, spreads, ranks, and what has broken since the last record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

World = Mapping[str, Any]  # results of one world by seed
RESAMPLES = 2000


@dataclass(frozen=True)
class Line:
    """One method in one world, over all seeds; scores are normalised (merged over expert)."""

    name: str
    family: str
    default: tuple[float, ...]  # by seed, mean over skills
    chosen: tuple[float, ...]
    worst: tuple[float, ...]  # the worst skill, settings chosen
    cells: tuple[float, ...]  # settings chosen, by seed and skill
    plain: tuple[float, ...]  # by default, by seed and skill
    optimism: float | None  # dev minus test of the chosen settings, mean over seeds
    tried: int
    settings: Mapping[str, Any]  # of seed 0
    seconds: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.chosen))

    @property
    def usual(self) -> float:
        """The mean with nothing set."""
        return float(np.mean(self.default))


def lines(world: World) -> list[Line]:
    """Every row of a world, best first."""
    seeds = [world[seed] for seed in sorted(world)]
    result = []
    for first in seeds[0]["rows"]:
        each = [entry for seed in seeds for entry in seed["rows"] if entry["name"] == first["name"]]
        if len(each) < len(seeds):
            continue
        gaps = [entry["dev"] - np.mean(entry["chosen"]) for entry in each if entry["dev"] is not None]
        chosen = tuple(float(np.mean(entry["chosen"])) for entry in each)
        result.append(
            Line(
                first["name"],
                first["family"],
                tuple(float(np.mean(entry["default"])) for entry in each),
                chosen,
                tuple(float(np.min(entry["chosen"])) for entry in each),
                tuple(float(score) for entry in each for score in entry["chosen"]),
                tuple(float(score) for entry in each for score in entry["default"]),
                float(np.mean(gaps)) if gaps else None,
                first["tried"],
                first["settings"],
                float(np.median([entry["seconds"] for entry in each])),
            )
        )
    return sorted(result, key=lambda line: -line.mean)


def base_of(world: World) -> tuple[float, ...]:
    """The base's normalised scores, by seed and skill."""
    return tuple(float(score) for seed in sorted(world) for score in world[seed]["base"])


def margin(values: Sequence[float], items: int) -> float:
    """Half of a 95 % interval of a mean over seeds: the larger of the spread of seeds and the noise of the items."""
    noise = 1.96 * float(np.sqrt(np.mean([max(v, 0.0) * max(1.0 - v, 0.0) for v in values]) / (items * len(values))))
    if len(values) < 3:
        return noise
    student = {3: 4.30, 4: 3.18, 5: 2.78}.get(len(values), 2.3)
    return max(noise, student * float(np.std(values, ddof=1)) / len(values) ** 0.5)


def gain(one: Sequence[float], over: Sequence[float]) -> tuple[float, float]:
    """Mean difference of scores by seed and skill, paired, and half of its 95 % interval."""
    difference = np.array(one) - np.array(over)
    return float(difference.mean()), 1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5


def rank_correlation(table: Sequence[Line]) -> float:
    """Mean Spearman correlation of the methods' order between pairs of seeds."""
    scores = np.array([line.chosen for line in table]).T
    if len(scores) < 2:
        return float("nan")
    return float(np.mean([spearman(scores[i], scores[j]) for i in range(len(scores)) for j in range(i)]))


def spearman(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> float:
    """The correlation of ranks."""
    return float(np.corrcoef(_ranks(np.asarray(one)), _ranks(np.asarray(other)))[0, 1])


def agreement(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float, float]:
    """Spearman's correlation of two worlds' orders of the methods that both have, and a 95 % interval by resampling methods."""
    names = [name for name in one if name in other]
    a, b = np.array([one[name] for name in names]), np.array([other[name] for name in names])
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        pick = generator.integers(0, len(names), len(names))
        if len(set(a[pick])) > 1 and len(set(b[pick])) > 1:
            drawn.append(spearman(a[pick], b[pick]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return spearman(a, b), float(low), float(high)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from one; equal values share their mean rank."""
    order = values.argsort()
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):
        ranks[values == value] = ranks[values == value].mean()
    return ranks


def record(results: Mapping[str, World]) -> dict[str, dict[str, list[float]]]:
    """What later runs are held to: mean and margin of every method in every world."""
    found = {}
    for world, seeds in results.items():
        first = next(iter(seeds.values()))
        if "cases" in first:
            found[world] = {
                line.name: [round(line.mean, 4), round(max(0.01, margin(line.chosen, first["items"])), 4)]
                for line in lines(seeds)
            }
    return found


def broken(now: Mapping[str, Mapping[str, Sequence[float]]], before: Mapping[str, Any]) -> list[str]:
    """Methods that score less than the record says by more than its margin, and methods that are gone."""
    wrong = []
    for world, methods in before.items():
        for name, (mean, spread) in methods.items() if world in now else ():
            if name not in now[world]:
                wrong.append(f"{world}: {name} is gone")
            elif now[world][name][0] < mean - spread:
                wrong.append(
                    f"{world}: {name} scores {now[world][name][0]:.3f}; the record is {mean:.3f} ± {spread:.3f}"
                )
    return wrong
