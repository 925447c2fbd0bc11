"""The world of the real model on the page: one seed, nothing set, methods compared item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from benchmarks.pages import fold
from benchmarks.pages import table as as_table
from benchmarks.zoo.advice import FEW
from benchmarks.zoo.learnt import LEARNERS, MEASURES, Cases, gather

Seed = Mapping[str, Any]  # results of the world with one seed
SERVED = "serving"
BLIND = ("always", "never bad")  # choosers that look at no measures


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
        skills.append([name, *(f"{each:.2f}" for each in row["default"]), f"{row['seconds']:.0f}"])
    damage = seed["damage"]
    apart = float(np.mean([damage[skill] for skill in seed["skills"]]))
    rows.append(["*the base*", "", f"{np.mean(seed['base']):.3f}", "", f"{damage['base']:.3f}"])
    rows.append(["*the experts, each on its own skill*", "", "1.000", "", f"{apart:.3f}"])
    skills.append(["*an expert, of all items*", *(f"{each:.2f}" for each in seed["experts"]), ""])
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
        *fold("Skill by skill, and seconds of the merge", as_table(["method", *seed["skills"], "s"], skills)),
    ]


def earlier(seed: Seed) -> list[str]:
    """What was measured before with other experts, where that says more than there is now."""
    if "before" not in seed:
        return []
    known = seed["before"]
    rows = ", ".join(f"`{name}` {score:.3f} at {bits:.2f} bits" for name, score, bits in known["rows"])
    return [
        f"Measured before, with experts that were trained twice as long and on {known['items']} items: {rows}; the base takes "
        f"{known['base']:.2f}. These are not to be compared with the table.",
        "",
    ]


def choices(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> list[tuple[str, str, float, float]]:
    """What each way to choose, learnt from the other worlds alone, takes on this one: words, method, behind, half an interval.

    It may choose among the methods that were run here.
    """
    rows = {row["name"]: row for row in merged(seed)}
    cases = gather(results)
    shared = [place for place, name in enumerate(cases.methods) if name in rows]
    known = Cases(
        cases.worlds, cases.measures, cases.scores[:, shared], tuple(cases.methods[place] for place in shared)
    )
    best = max((rows[name] for name in known.methods), key=lambda row: float(np.mean(row["default"])))
    met = seed.get("measures")
    measures = np.array([float(met[name]) if met else np.nan for name in MEASURES])
    found = []
    for key, (learn, words) in LEARNERS.items():
        if met or key in BLIND:
            name = known.methods[learn(known)(measures)]
            found.append((words, name, *behind(rows[name], best, seed["experts"])))
    gaps = [behind(rows[name], best, seed["experts"])[0] for name in known.methods]
    return [*found, ("a method at random", "", float(np.mean(gaps)), 0.0)]


def advice(results: Mapping[str, Mapping[str, Any]], seed: Seed) -> list[str]:
    """What advice from the small worlds would have been worth on the real model."""
    if len(merged(seed)) < FEW:
        return []
    found = choices(results, seed)
    rows = [
        [words, f"`{name}`" if name else "", f"{gap:.3f}" + (f" ± {half:.3f}" if half else "")]
        for words, name, gap, half in found
    ]
    return [
        "### Held out: the real model",
        "",
        "The same choosers, learnt from the small worlds alone, before the real model and its five adapters; the best in "
        "hindsight is of the same methods.",
        "",
        *as_table(["chosen by", "takes", "behind [95 %]"], rows, left=["takes"]),
        "",
    ]
