"""What the zoo's figures say to someone who has models to merge; every sentence is computed from them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.pages import fold
from benchmarks.pages import table as as_table
from benchmarks.zoo.summary import Line, agreement, gain

from mergery.method import find, methods

NOISE = 0.02  # of a mean over the items of a world
REAL = "real"
NEAR = 0.03  # behind the best: as good
SHOWN = 10  # methods whose gain by tuning is shown
FEW = 6  # methods in common, for the order of two worlds to be compared, and for a choice among them to say anything
ENOUGH = 20  # methods tuned in every world, to say which is best when tuned
Tables = Mapping[str, Sequence[Line]]


@dataclass(frozen=True)
class Record:
    """One method over the worlds: scores by world, and how far each is behind the best of the world."""

    name: str
    family: str
    default: Mapping[str, float]
    chosen: Mapping[str, float]
    behind: Mapping[str, float]  # with nothing set, the best method that has nothing set
    behind_tuned: Mapping[str, float]
    tuned: bool  # in every world

    @property
    def near(self) -> int:
        """Worlds in which it is as good as the best, with nothing set."""
        return sum(gap <= NEAR for gap in self.behind.values())

    @property
    def worst(self) -> float:
        return max(self.behind.values())

    @property
    def streamed(self) -> bool:
        """Whether it needs no matrix as a whole: it takes seconds to minutes, whatever the size of the models."""
        return self.name in methods() and find(self.name).unit != "matrix"

    @property
    def words(self) -> str:
        return (
            f"`{self.name}` ({_mean(self.default):.3f}; within {NEAR:g} of the best in {self.near} of {len(self.behind)}"
            f" worlds, at worst {self.worst:.3f} behind)"
        )

    @property
    def tuned_words(self) -> str:
        near = sum(gap <= NEAR for gap in self.behind_tuned.values())
        return (
            f"`{self.name}` ({_mean(self.chosen):.3f}; within {NEAR:g} of the best in {near} of"
            f" {len(self.behind_tuned)} worlds, at worst {max(self.behind_tuned.values()):.3f} behind)"
        )


def _mean(values: Mapping[str, float]) -> float:
    return float(np.mean(list(values.values())))


def tuning(tables: Tables) -> str:
    """How many methods were tuned, where not all were."""
    cells = [line.tried > 1 for table in small(tables).values() for line in table if line.family != "serving"]
    if sum(cells) > 0.8 * len(cells):
        return ""
    return (
        f"In the run behind these figures {sum(cells)} of {len(cells)} (methods in worlds) were tuned; of the others `chosen` "
        "is the default, and `make zoo` tunes them all."
    )


def small(tables: Tables) -> Tables:
    """The worlds in which every method was run."""
    return {world: table for world, table in tables.items() if world != REAL}


def records(tables: Tables) -> list[Record]:
    """Every method that all worlds have."""
    scores = {world: {line.name: line for line in table} for world, table in tables.items()}
    names = [name for name in next(iter(scores.values())) if all(name in lines for lines in scores.values())]
    dense = [name for name in names if next(iter(scores.values()))[name].family != "serving"]
    best = {world: max(lines[name].usual for name in dense) for world, lines in scores.items()}
    tuned = {world: max(lines[name].mean for name in dense) for world, lines in scores.items()}
    return [
        Record(
            name,
            next(iter(scores.values()))[name].family,
            {world: lines[name].usual for world, lines in scores.items()},
            {world: lines[name].mean for world, lines in scores.items()},
            {world: best[world] - lines[name].usual for world, lines in scores.items()},
            {world: tuned[world] - lines[name].mean for world, lines in scores.items()},
            all(lines[name].tried > 1 for lines in scores.values()),
        )
        for name in names
    ]


def in_short(tables: Tables, real: Sequence[str] = ()) -> list[str]:
    """The section that opens the page; `real` is what it says of the real model."""
    tables = small(tables)
    every = records(tables)
    dense = [each for each in every if each.family != "serving"]
    served = sorted((each for each in every if each.family == "serving"), key=lambda each: -_mean(each.default))
    streamed = [each for each in dense if each.streamed]
    untuned = sorted(dense, key=lambda each: _mean(each.behind))
    lines = [
        f"- **With nothing set**: {_few(untuned, 3)}.",
        f"- **Never bad**: {_few(sorted(dense, key=lambda each: each.worst), 3)}.",
        f"- **In seconds to minutes**, whatever the size of the models: "
        f"{_few(sorted(streamed, key=lambda each: _mean(each.behind)), 3)}.",
    ]
    tuned = sorted((each for each in dense if each.tuned), key=lambda each: _mean(each.behind_tuned))
    if len(tuned) >= ENOUGH:
        best = ", ".join(each.tuned_words for each in tuned[:3])
        lines.append(f"- **With validation items**, settings chosen: {best}.")
    lines += real
    if served:
        lines.append(
            "- **When you know the task as you use the model**, and may keep a packed model for each: "
            + ", ".join(f"`{each.name}` ({_mean(each.default):.3f})" for each in served[:2])
            + "."
        )
    return [
        "## In short",
        "",
        "Means over the worlds, each of equal weight; 1 is as good as separate experts.",
        "",
        *lines,
        "",
    ]


def fallen(tables: Tables, bases: Mapping[str, Sequence[float]]) -> dict[str, list[str]]:
    """Methods that fall below the base with nothing set, by more than `NOISE`, and the worlds in which they do."""
    found: dict[str, list[str]] = {}
    for world, table in tables.items():
        for line in table:
            gap = gain(line.plain, bases[world])[0]
            if line.family != "serving" and line.name in methods() and gap < -NOISE:
                found.setdefault(line.name, []).append(world)
    return {name: found[name] for name in sorted(found)}


def module(tables: Tables, bases: Mapping[str, Sequence[float]], rule: tuple[str, float, str, str] | None) -> str:
    """The source of `mergery.report.advised`, from which `mergery plan` has its advice."""
    below = fallen(tables, bases)
    safe = [each for each in records(small(tables)) if each.name not in below and each.streamed]
    best = sorted(safe, key=lambda each: each.worst)[:2]
    rows = "".join(f"\n    {name!r}: {_tuple(worlds)}," for name, worlds in below.items()) + "\n" * bool(below)
    text = f'''"""What the comparison of methods found (docs/which-method.md): written by `make zoo`, do not edit."""

from __future__ import annotations

from collections.abc import Mapping

WORLDS = {_tuple(list(tables))}
SAFE = {_tuple([each.name for each in best])}
"""Methods of seconds to minutes that are least behind where they are worst, and nowhere below the base."""
BELOW: Mapping[str, tuple[str, ...]] = {{{rows}}}
"""Methods that fell below the base with nothing set, and the worlds in which they did."""
RULE: tuple[str, float, str, str] | None = {rule!r}
"""A measure of `mergery.report.interference`, a bound, the method below it and the one from it on, where such a rule held on
worlds that it was not learnt from."""
'''
    return text.replace("'", '"')


def _tuple(values: Sequence[str]) -> str:
    return repr(tuple(values))


def _few(ordered: Sequence[Record], count: int) -> str:
    return ", ".join(each.words for each in ordered[:count])


def defaults(tables: Tables, bases: Mapping[str, Sequence[float]]) -> list[str]:
    """Every method with nothing set, world by world, and what tuning would have added."""
    down: dict[str, list[str]] = {}
    rows = []
    for each in sorted(records(small(tables)), key=lambda each: -_mean(each.default)):
        if each.family == "serving":
            continue
        cells = []
        for world, table in tables.items():
            line = next((line for line in table if line.name == each.name), None)
            if line is None:
                cells.append("")
                continue
            below = gain(line.plain, bases[world])[0] < -NOISE
            if below:
                down.setdefault(world, []).append(f"`{each.name}`")
            tuned = f" ({line.mean:.3f})" if line.tried > 1 else ""
            cells.append(f"**{line.usual:.3f}** ↓{tuned}" if below else f"{line.usual:.3f}{tuned}")
        rows.append([f"`{each.name}`", *cells, f"{_mean(each.behind):.3f}", f"{each.worst:.3f}"])
    base = ["*the base*", *(f"{np.mean(bases[world]):.3f}" for world in tables), "", ""]
    told = [f"- {world} (the base: {np.mean(bases[world]):.3f}): {', '.join(names)}" for world, names in down.items()]
    verdict = f"With nothing set these fall below the base by more than {NOISE:g}; `mergery plan` says so:"
    nothing = [world for world, scores in bases.items() if not np.any(scores)]
    none = (
        f" The base answers nothing in {nothing[0]}: there the bits of prose tell what a merge costs."
        if nothing
        else ""
    )
    return [
        "## Defaults",
        "",
        "Every method with nothing set, and in brackets with the settings that validation items chose. *Behind* is how far "
        "the default is behind the best default of a world: mean and worst.",
        "",
        *([verdict, "", *told] if told else [f"With nothing set no method falls below the base.{none}"]),
        "",
        *left(tables),
        *fold("All methods, world by world", as_table(["method", *tables, "behind", "worst"], [*rows, base])),
    ]


def left(tables: Tables) -> list[str]:
    """What tuning adds to the methods that are best with nothing set, among those that were tuned in every world."""
    tuned = [each for each in records(small(tables)) if each.tuned and each.family != "serving"]
    if not tuned:
        return []
    shown = sorted(tuned, key=lambda each: -_mean(each.default))[:SHOWN]
    rows = []
    for each in shown:
        gains = {world: each.chosen[world] - usual for world, usual in each.default.items()}
        most = max(gains, key=lambda world: gains[world])
        added = _mean(each.chosen) - _mean(each.default)
        cells = [
            f"{_mean(each.default):.3f}",
            f"{_mean(each.chosen):.3f}",
            f"{added:+.3f}" if added <= NOISE else f"**{added:+.3f}**",
        ]
        rows.append([f"`{each.name}`", *cells, f"{gains[most]:+.3f} in {most}"])
    held = sum(_mean(each.chosen) - _mean(each.default) <= NOISE for each in shown)
    return [
        f"What a few settings, chosen on validation items, add to the best of those that were tuned everywhere; {held} of "
        f"{len(shown)} are within {NOISE:g} of that with nothing set:",
        "",
        *as_table(["method", "nothing set", "chosen", "added", "most"], rows, left=["most"]),
        "",
    ]


def between(tables: Mapping[str, Sequence[Line]]) -> list[str]:
    """Whether the order of methods in one world is that of another."""
    rows, means = [], []
    kinds = ("default", "chosen") if not tuning(tables) else ("default",)
    scores = {
        world: {line.name: line.usual for line in table if line.family != "serving"} for world, table in tables.items()
    }
    tuned = {
        world: {line.name: line.mean for line in table if line.family != "serving"} for world, table in tables.items()
    }
    for one, other in itertools.combinations(tables, 2):
        if REAL in (one, other) and len(set(scores[one]) & set(scores[other])) < FEW:
            continue
        cells = []
        for kind in (scores, tuned)[: len(kinds)]:
            if kind is tuned and REAL in (one, other):
                cells.append("")
                continue
            mean, low, high = agreement(kind[one], kind[other])
            cells.append(f"{mean:.2f} [{low:.2f}, {high:.2f}]")
            means += [mean] if REAL not in (one, other) else []
        rows.append([f"{one}, {other}", len(set(scores[one]) & set(scores[other])), *cells])
    if not rows:
        return []
    closing = ""
    if REAL in tables and len(scores[REAL]) >= FEW:
        whole = {each.name: _mean(each.default) for each in records(small(tables))}
        mean, low, high = agreement(whole, scores[REAL])
        shared = len(set(whole) & set(scores[REAL]))
        told = f"{mean:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(["the mean of the small worlds, real", shared, told, *[""] * (len(kinds) - 1)])
        word = "something" if low > 0 else "nothing that could be shown"
        closing = f" Of the real model the small worlds say {word}: {told}."
    return [
        "## Between worlds",
        "",
        "Does the order of the methods in one world foretell that in another? Rank correlations (Spearman; 95 % intervals by "
        "resampling methods):",
        "",
        *as_table(["worlds", "methods", *kinds], rows),
        "",
        f"The mean{' without the real model' * (REAL in tables)} is {np.mean(means):.2f}: what wins in one world says "
        + ("much" if np.mean(means) > 0.7 else "something" if np.mean(means) > 0.3 else "little")
        + f" of the next.{closing}",
        "",
    ]
