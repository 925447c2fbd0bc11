"""The zoo in words and tables: docs/which-method.md."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.pages import fold
from benchmarks.zoo.advice import in_short
from benchmarks.zoo.chart import draw_effects, draw_methods
from benchmarks.zoo.summary import Line, gain, lines, rank_correlation

ITEMS = {"sequences": 8 * 500, "digits": 8 * 450}
FAMILIES = {
    "average": "averages",
    "arithmetic": "task arithmetic",
    "sparse": "sparsify and elect",
    "spectral": "spectral",
    "quadratic": "quadratic interference",
    "span": "geometry in the span",
    "serving": "one model for each task, packed",
}
LADDER = ("average", "arithmetic", "sparse", "spectral", "quadratic")

WELL_KNOWN = ("task_arithmetic", "ties", "dare_ties", "slerp", "linear", "model_stock")
BEST = 8  # methods that are shown in the open

LEGEND = (
    "± is half of a 95 % interval of the difference, paired by seed and skill; a smaller difference proves nothing. `tried` is"
    " the number of settings that were scored on validation items; `dev - test` is by how much the best of them looked better"
    " there than it is. `s` is the time of planning and merging on one core.",
)

HEAD = """# Which method

Written by `make zoo` (`python -m benchmarks.zoo --write`); do not edit.

Every method of Mergery on the same experts, which anyone can train again on two cores in minutes. For advice on models of your
own, with the time that each method takes, see [Which method, and which weights](choosing.md).

There are two worlds, so that a result is not an accident of one:

- **sequences**: Llamas of half a million parameters that rewrite short words by eight rules, each with an alphabet of its own.
- **digits**: residual encoders of handwritten digits under eight views and questions, each with a classifier of its own
  that is not merged.

An expert is trained from the base on one skill. A score is the share of held-out items that are answered rightly, divided by
the score of that skill's own expert: 1 is as good as eight separate models. Scores are means over eight skills and {seeds}
seeds. *Default* is with Mergery's default settings, *chosen* with the best of a few on validation items. All scores are on test
items, which no choice has seen.

![Scores of every method in both worlds](which-method.png)
"""


def write(results: Mapping[str, Mapping[int, Any]], path: Path) -> None:
    """Write the page and its pictures."""
    tables = {world: lines(results[world]) for world in ("sequences", "digits")}
    bases = {world: float(np.mean([np.mean(seed["base"]) for seed in results[world].values()])) for world in tables}
    seeds = len(results["sequences"])
    draw_methods(tables, bases, path.with_suffix(".png"))
    parts = [HEAD.format(seeds=seeds), *in_short(tables), *by_family(tables)]
    for world, table in tables.items():
        parts += world_section(world, table, results[world], bases[world])
    parts += effects_section(results, tables, path)
    path.write_text("\n".join(parts).rstrip() + "\n")


def by_family(tables: Mapping[str, Sequence[Line]]) -> list[str]:
    """The best and the middle of each family, and what it costs."""
    found: dict[str, dict[str, list[float]]] = {}
    for world, table in tables.items():
        for line in table:
            found.setdefault(line.family, {}).setdefault(world, []).append(line.mean)
    unit = np.mean([line.seconds for table in tables.values() for line in table if line.name == "task_arithmetic"])
    head = ["## By family", "", "| family | " + " | ".join(f"best, {w} | median, {w}" for w in tables) + " | cost |"]
    head += ["|---|" + "---:|" * (2 * len(tables)) + "---:|"]
    order = sorted(found, key=lambda f: -float(np.mean([max(found[f][w]) for w in tables])))
    for family in order:
        lines_of = [line for table in tables.values() for line in table if line.family == family]
        cells = [f"{max(found[family][w]):.3f} | {np.median(found[family][w]):.3f}" for w in tables]
        head.append(
            f"| {FAMILIES[family]} | "
            + " | ".join(cells)
            + f" | {np.median([line.seconds for line in lines_of]) / unit:.0f} |"
        )
    return [
        *head,
        "",
        "`cost` is the median time of a merge against that of `task_arithmetic`; on models as small as these it says little"
        " but the order. [What methods cost](methods-cost.md) has that of real sizes.",
        "",
    ]


def world_section(world: str, table: Sequence[Line], seeds: Mapping[int, Any], base: float) -> list[str]:
    regime = [seed["regime"] for seed in seeds.values()]
    base_score, own, others = (np.mean([r[key] for r in regime]) for key in ("base", "own", "others"))
    baseline = next(line for line in table if line.name == "task_arithmetic")
    text = [
        f"## {world.capitalize()}",
        "",
        f"The base answers {100 * base_score:.0f} % of the items; an expert {100 * own:.0f} % of its own skill's and "
        f"{100 * others:.0f} % of the others'. Normalised, the base scores {base:.3f}. The order of the methods agrees "
        f"between seeds with a mean rank correlation of {rank_correlation(table):.2f}.",
        "",
        *short([(line.name, line.family, float(np.mean(line.default)), line.mean) for line in table]),
    ]
    return text + fold("All methods, with intervals and the settings that were chosen", full(table, baseline))


def short(rows: Sequence[tuple[str, str, float, float]]) -> list[str]:
    """The best methods of a world, and those that most people know; rows are in order."""
    best = [row for row in rows if row[1] != "serving"][:BEST]
    shown = [row for row in rows if row in best or row[0] in WELL_KNOWN]
    lines = ["| method | family | default | chosen |", "|---|---|---:|---:|"]
    lines += [
        f"| `{name}` | {FAMILIES[family]} | {usual:.3f} | **{best:.3f}** |" for name, family, usual, best in shown
    ]
    return [*lines, ""]


def full(table: Sequence[Line], baseline: Line) -> list[str]:
    """All figures of all methods of a world."""
    text = [
        "| method | family | chosen | over task arithmetic | default | worst skill | chosen settings (seed 0) "
        "| tried | dev - test | s |",
        "|---|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]

    def compared(line: Line) -> str:
        mean, half = gain(line, baseline)
        return "" if line is baseline else f"{mean:+.3f} ± {half:.3f}"

    for line in table:
        settings = ", ".join(f"{key} {value}" for key, value in line.settings.items()) or "default"
        text.append(
            f"| `{line.name}` | {FAMILIES[line.family]} | **{line.mean:.3f}** | {compared(line)} "
            f"| {np.mean(line.default):.3f} | {np.mean(line.worst):.3f} | {settings} | {line.tried} "
            f"| {line.optimism:+.3f} | {line.seconds:.2f} |"
        )
    text += ["", *LEGEND]
    return text


def effects_section(
    results: Mapping[str, Mapping[int, Any]], tables: Mapping[str, Sequence[Line]], path: Path
) -> list[str]:
    families = {line.name: line.family for line in tables["sequences"]}
    growths = [seed["growth"] for seed in results["sequences"].values()]
    counts = growths[0]["counts"]
    growth = {
        "counts": counts,
        "scores": {
            name: np.mean([g["scores"][name] for g in growths], axis=0).tolist() for name in growths[0]["scores"]
        },
    }
    widths: dict[int, dict[str, float]] = {}
    for name in results:
        if name.startswith("width ") or name == "sequences":
            width = 160 if name == "sequences" else int(name.split()[1])
            widths[width] = {line.name: line.mean for line in lines(results[name]) if line.name in growth["scores"]}
    text = ["## Effects", "", "Effects that the literature reports, and whether they appear here.", ""]
    text += ladder(tables)
    if len(widths) > 1:
        picture = path.with_name("which-method-effects.png")
        draw_effects(growth, widths, families, picture)
        text += [f"![Scores as experts are added and as models grow]({picture.name})", ""]
    text += ["### More experts", ""]
    rows = [
        "| method | " + " | ".join(f"{count} experts" for count in counts) + " |",
        "|---|" + "---:|" * len(counts),
    ]
    for name, scores in growth["scores"].items():
        rows.append(f"| `{name}` | " + " | ".join(f"{score:.3f}" for score in scores) + " |")
    spread = [max(s[i] for s in growth["scores"].values()) - growth["scores"]["linear"][i] for i in range(len(counts))]
    word = "grows" if spread[-1] > spread[0] + 0.01 else "does not grow"
    text += [
        f"The gap between the best method and plain averaging {word} with {', '.join(map(str, counts))} experts: "
        f"{', '.join(f'{s:.3f}' for s in spread)}.",
        "",
        *fold("Sequences; settings chosen anew for each number of experts", rows),
    ]
    if len(widths) > 1:
        text += width_text(widths)
    text += interference_text(results) + negation_text(results) + analogy_text(results)
    return text


def ladder(tables: Mapping[str, Sequence[Line]]) -> list[str]:
    """Whether families come in the order that papers report."""
    text = [
        "### The ladder",
        "",
        "Averages < task arithmetic < sparsify and elect < spectral < quadratic, by the best of each family:",
        "",
    ]
    for world, table in tables.items():
        best = {
            f: max((line for line in table if line.family == f), key=lambda line: line.mean, default=None)
            for f in LADDER
        }
        steps = [line for line in best.values() if line is not None]
        marks = [f"`{steps[0].name}` {steps[0].mean:.3f}"]
        for before, after in itertools.pairwise(steps):
            mean, half = gain(after, before)
            sign = "<" if mean > half else ">" if mean < -half else "≈"
            marks.append(f"{sign} `{after.name}` {after.mean:.3f}")
        text.append(f"- {world}: " + " ".join(marks))
    return [*text, "", "≈ where the difference is within its interval.", ""]


def width_text(widths: Mapping[int, Mapping[str, float]]) -> list[str]:
    order = sorted(widths)
    rows = ["| method | " + " | ".join(f"width {w}" for w in order) + " |", "|---|" + "---:|" * len(order)]
    for name in widths[order[0]]:
        rows.append(f"| `{name}` | " + " | ".join(f"{widths[w][name]:.3f}" for w in order) + " |")
    means = [float(np.mean(list(widths[w].values()))) for w in order]
    spreads = [float(np.std(list(widths[w].values()))) for w in order]
    better = "merge better" if means[-1] > means[0] + 0.01 else "do not merge better"
    closer = "and methods come closer" if spreads[-1] < 0.9 * spreads[0] else "and methods do not come closer"
    shown = ", ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(means, spreads, strict=True))
    told = f"Wider models {better} {closer} (mean and spread over these methods: {shown})."
    return ["### Larger models", "", told, "", *fold("Scores by width", rows)]


def interference_text(results: Mapping[str, Mapping[int, Any]]) -> list[str]:
    text = ["### Interference", ""]
    for world in ("sequences", "digits"):
        entries = [seed["interference"] for seed in results[world].values()]
        cosine, conflicts, alone = (
            np.mean([entry[key] for entry in entries]) for key in ("cosine", "conflicts", "alone")
        )
        together = {name: np.mean([entry["together"][name] for entry in entries]) for name in entries[0]["together"]}
        shown = ", ".join(f"`{name}` {score:.3f}" for name, score in together.items())
        text.append(
            f"- {world}: task vectors have a mean cosine of {cosine:.3f}; among entries that are in the largest fifth of "
            f"any, {100 * conflicts:.0f} % have two signs. One task vector alone, at the scale that is best for all "
            f"together, gives its skill {alone:.3f}; all together give {shown}."
        )
    return [*text, ""]


def negation_text(results: Mapping[str, Mapping[int, Any]]) -> list[str]:
    text = [
        "### Negation",
        "",
        "A skill's task vector subtracted from the base, as far as the other skills keep 95 % of the base's dev score.",
        "",
    ]
    text += ["| world | the skill, before | after | other skills, before | after |", "|---|---:|---:|---:|---:|"]
    for world in ("sequences", "digits"):
        entries = [entry for seed in results[world].values() for entry in seed["negation"]]
        numbers = [np.mean([entry[key][side] for entry in entries]) for key in ("target", "control") for side in (0, 1)]
        text.append(f"| {world} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    return [*text, ""]


def analogy_text(results: Mapping[str, Mapping[int, Any]]) -> list[str]:
    if "analogy" not in results:
        return []
    entries = [seed["analogy"] for seed in results["analogy"].values()]
    base, told, control, expert = (
        np.mean([entry[key] for entry in entries]) for key in ("base", "told", "control", "expert")
    )
    word = "appears" if told > max(base, control) + 0.02 else "does not appear"
    return [
        "### Analogy",
        "",
        "Swap with one alphabet is to swap with another as deal with the first is to deal with the second: the fourth skill "
        f"from the task vectors of the other three. The base scores {base:.3f} on it, the analogy {told:.3f}, the better of "
        f"the two nearest task vectors alone {control:.3f}, an expert {expert:.3f}. The effect {word}.",
        "",
    ]
