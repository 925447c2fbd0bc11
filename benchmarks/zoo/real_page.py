"""The world of the real model on the page: one seed, nothing set, methods compared item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from benchmarks.pages import fold
from benchmarks.pages import table as as_table
from benchmarks.zoo.advice import FEW
from benchmarks.zoo.learnt import LEARNERS, MEASURES, Cases, Choose, gather
from benchmarks.zoo.summary import agreement

Seed = Mapping[str, Any]  # results of the world with one seed
SERVED = "serving"
BLIND = ("always", "never bad")  # choosers that look at no measures
AT_RANDOM = "a method at random"


def ordered(seed: Seed) -> list[Mapping[str, Any]]:
    """Its rows, best first."""
    return sorted(seed["rows"], key=lambda row: -float(np.mean(row["default"])))


def merged(seed: Seed) -> list[Mapping[str, Any]]:
    """The rows that make one model of all skills, best first."""
    return [row for row in ordered(seed) if row["family"] != SERVED]


def behind(one: Mapping[str, Any], other: Mapping[str, Any], experts: Sequence[float]) -> tuple[float, float]:
    """How far one row is behind another in score, and half of a 95 % interval: items of each skill paired."""
    gaps, noise = [], []
    for mine, theirs, expert in zip(one["answers"], other["answers"], experts, strict=True):
        gap = (np.array(list(theirs), float) - np.array(list(mine), float)) / expert
        gaps.append(gap.mean())
        noise.append(gap.var(ddof=1) / len(gap))
    return float(np.mean(gaps)), 1.96 * float(np.sqrt(np.sum(noise))) / len(gaps)


def tied(seed: Seed) -> list[str]:
    """The best row, and those that its items cannot tell from it."""
    rows = merged(seed)
    gaps = [behind(row, rows[0], seed["experts"]) for row in rows]
    return [row["name"] for row, (gap, half) in zip(rows, gaps, strict=True) if gap <= half]


def in_short(seed: Seed) -> list[str]:
    """What opens the page: the best, those that cannot be told from it, and what they cost."""
    rows = {row["name"]: row for row in merged(seed)}
    near = tied(seed)
    said = ", ".join(
        f"`{name}` ({np.mean(rows[name]['default']):.3f}, {rows[name]['damage']:.2f} bits a byte)" for name in near[:5]
    )
    more = f" and {len(near) - 5} more" if len(near) > 5 else ""
    return [
        f"- **On the real model**, with nothing set, the best of {len(rows)} methods and what its items cannot tell from it: "
        f"{said}{more}. The base takes {seed['damage']['base']:.2f} bits."
    ]


def section(seed: Seed, families: Mapping[str, str]) -> list[str]:
    """The world's tables."""
    best = merged(seed)[0]
    rows, skills = [], []
    for row in ordered(seed):
        gap, half = behind(row, best, seed["experts"])
        told = "" if row is best or row["family"] == SERVED else f"{gap:.3f} ± {half:.3f}"
        score, name = float(np.mean(row["default"])), f"`{row['name']}`"
        rows.append([name, families[row["family"]], f"{score:.3f}", told, f"{row['damage']:.3f}"])
        skills.append([name, *(f"{each:.2f}" for each in row["default"])])
    damage = seed["damage"]
    apart = float(np.mean([damage[skill] for skill in seed["skills"]]))
    rows.append(["*the base*", "", f"{np.mean(seed['base']):.3f}", "", f"{damage['base']:.3f}"])
    rows.append(["*the experts, each on its own skill*", "", "1.000", "", f"{apart:.3f}"])
    skills.append(["*an expert, of all items*", *(f"{each:.2f}" for each in seed["experts"])])
    near = ", ".join(f"`{name}`" for name in tied(seed)[1:])
    told = (
        f"From the best {seed['items']} items cannot tell: {near}." if near else "The best is surely the best of these."
    )
    return [
        "With nothing set; *behind* the best with a 95 % interval, items paired. What a merge has lost is told by the bits "
        "that a byte of ordinary prose takes, of which no skill has any: the fewer the better.",
        "",
        *as_table(["method", "family", "score", "behind", "bits per byte"], rows, left=["family"]),
        "",
        told,
        "",
        *earlier(seed),
        *fold("Skill by skill", as_table(["method", *seed["skills"]], skills)),
    ]


def succeed(seed: Seed, former: Seed | None) -> dict[str, Any]:
    """Results with, as `before`, those of the experts that were there before: two trainings stand side by side, never mixed."""
    if former is None:
        return dict(seed)
    if former.get("trained") == seed["trained"]:
        return {**seed, **({"before": former["before"]} if "before" in former else {})}
    rows = [[row["name"], round(float(np.mean(row["default"])), 4), row["damage"]] for row in merged(former)]
    return {**seed, "before": {"items": former["items"], "base": former["damage"]["base"], "rows": rows}}


def earlier(seed: Seed) -> list[str]:
    """What the same skills, trained another time, came to: how much of the order is the training's."""
    if "before" not in seed:
        return []
    rows = seed["before"]["rows"]
    told = ", ".join(f"`{name}` {score:.3f} at {bits:.2f} bits" for name, score, bits in rows)
    told = (
        f"The same skills, trained another time on another machine and asked {seed['before']['items']} items: {told}."
    )
    now = {row["name"]: float(np.mean(row["default"])) for row in merged(seed)}
    then = {name: score for name, score, _ in rows if name in now}
    if len(then) >= FEW:
        mean, low, high = agreement(then, now)
        told += f" Their order goes with the table's by a rank correlation of {mean:.2f} [{low:.2f}, {high:.2f}]."
    return [told, ""]


def known(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> Cases:
    """What there is to learn from: the small worlds, with the methods that were run on the real model too."""
    cases, here = gather(results), {row["name"] for row in merged(seed)}
    shared = [place for place, name in enumerate(cases.methods) if name in here]
    return Cases(cases.worlds, cases.measures, cases.scores[:, shared], tuple(cases.methods[place] for place in shared))


def choosers(cases: Cases) -> list[tuple[str, str, Choose]]:
    """Each way to choose, by its key and in words.

    A measure beyond all that was seen is the nearest that was, but for the cautious; the lines are also followed beyond.
    """
    low, high = cases.measures.min(axis=0), cases.measures.max(axis=0)

    def within(choose: Choose) -> Choose:
        return lambda measures: choose(np.clip(measures, low, high))

    found = [
        (key, words, learn(cases) if key == "cautious" else within(learn(cases)))
        for key, (learn, words) in LEARNERS.items()
    ]
    return [*found, ("beyond", "the same lines, followed beyond what was seen", LEARNERS["straight"][0](cases))]


def choices(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> list[tuple[str, str, float, float]]:
    """What each way to choose takes for all experts of the real model: its words, a method, how far behind, half an interval.

    It has learnt from the small worlds alone, and may choose among the methods that were run here.
    """
    rows, cases = {row["name"]: row for row in merged(seed)}, known(results, seed)
    best = max((rows[name] for name in cases.methods), key=lambda row: float(np.mean(row["default"])))
    met = seed.get("measures")
    measures = np.array([float(met[name]) if met else np.nan for name in MEASURES])
    found = []
    for key, words, choose in choosers(cases):
        if met or key in BLIND:
            name = cases.methods[choose(measures)]
            found.append((words, name, *behind(rows[name], best, seed["experts"])))
    gaps = [behind(rows[name], best, seed["experts"])[0] for name in cases.methods]
    return [*found, (AT_RANDOM, "", float(np.mean(gaps)), 0.0)]


def groups(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> list[Mapping[str, Any]]:
    """The groups of the real model's experts on which every method was run that the choosers choose among."""
    names = known(results, seed).methods
    return [case for case in seed.get("cases", ()) if all(name in case["scores"] for name in names)]


def named(case: Mapping[str, Any], seed: Seed) -> str:
    """A group of its experts in words."""
    skills = case["skills"]
    return f"all {len(skills)}" if len(skills) == len(seed["skills"]) else ", ".join(skills)


def fewer(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> list[str]:
    """What the methods make of fewer of its experts, best on the mean first; nothing where only all were merged."""
    measured = groups(results, seed)
    if len(measured) < 2:
        return []
    methods = sorted(
        known(results, seed).methods, key=lambda name: -float(np.mean([case["scores"][name] for case in measured]))
    )
    rows = [[f"`{name}`", *(f"{case['scores'][name]:.3f}" for case in measured)] for name in methods]
    return fold("Fewer experts", as_table(["method", *(named(case, seed) for case in measured)], rows))


def foreseen(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> dict[str, np.ndarray]:
    """How far what each way to choose takes is behind the best (cases,), in each group of the real model's experts."""
    cases, measured = known(results, seed), groups(results, seed)
    if not measured:
        return {}
    scores = np.array([[case["scores"][name] for name in cases.methods] for case in measured])
    gaps = scores.max(axis=1, keepdims=True) - scores
    met = [np.array([float(case["measures"][name]) for name in MEASURES]) for case in measured]
    found = {
        words: np.array([gap[choose(each)] for gap, each in zip(gaps, met, strict=True)])
        for _, words, choose in choosers(cases)
    }
    return {**found, AT_RANDOM: gaps.mean(axis=1)}


def outside(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> str:
    """Which of the real model's measures no small world has."""
    cases, met = known(results, seed), seed.get("measures", {})
    low, high = cases.measures.min(axis=0), cases.measures.max(axis=0)
    beyond = [
        name for place, name in enumerate(MEASURES) if name in met and not low[place] <= float(met[name]) <= high[place]
    ]
    return f" Beyond are: {', '.join(beyond)}." if beyond else ""


def advice(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> list[str]:
    """What advice from the small worlds would have been worth on the real model."""
    if len(merged(seed)) < FEW:
        return []
    over, measured = foreseen(results, seed), groups(results, seed)
    count = len(measured)
    rows = [
        [words, f"`{name}`" if name else "", f"{gap:.3f}" + (f" ± {half:.3f}" if half else "")]
        + [f"{statistic(over[words]):.3f}" for statistic in (np.mean, np.max) if count > 1]
        for words, name, gap, half in choices(results, seed)
    ]
    each = "; ".join(named(case, seed) for case in measured)
    told = f" So they are before {count} groups of them: {each}." if count > 1 else ""
    return [
        "### Held out: the real model",
        "",
        "The same choosers, learnt from the small worlds alone, before the real model and its five adapters; the best in "
        f"hindsight is of the same {len(known(results, seed).methods)} methods.{told} A measure beyond all that was seen "
        f"counts as the nearest that was, as `mergery auto` takes it.{outside(results, seed)}",
        "",
        *as_table(
            ["chosen by", "takes", "behind [95 %]", *["mean of the groups", "worst of them"] * (count > 1)],
            rows,
            left=["takes"],
        ),
        "",
        *fewer(results, seed),
    ]
