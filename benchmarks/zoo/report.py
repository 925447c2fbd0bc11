"""The zoo in words and tables: docs/which-method.md."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.pages import fold
from benchmarks.pages import table as as_table
from benchmarks.zoo import learnt, real_page
from benchmarks.zoo.advice import REAL, between, defaults, in_short, module, small, tuning
from benchmarks.zoo.chart import draw_effects, draw_methods
from benchmarks.zoo.summary import Line, base_of, gain, lines, rank_correlation

Results = Mapping[str, Mapping[str, Any]]
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
    " the number of settings that were scored on validation items, 1 where nothing was tuned; `dev - test` is by how much the"
    " best of them looked better there than it is. `s` is the time of planning and merging on one core.",
)

WORLDS = {
    "sequences": "Llamas of two hundred thousand parameters that rewrite short words by eight rules, each with an alphabet"
    " of its own: no two skills share an input.",
    "shared": "the same with seven rules over *one* alphabet: only the task's name says what is asked, and skills disturb each"
    " other.",
    "adapters": "LoRA adapters of ranks 4, 8, 16 and 32 on one such Llama, trained with peft: eight skills, two on each of four"
    " alphabets.",
    "digits": "residual encoders of handwritten digits under eight views and questions, each with a classifier of its own"
    " that is not merged.",
    "real": "SmolLM2-135M and five LoRA adapters on small generated skills. Here methods were run with nothing set.",
}

HEAD = """# Which method

Written by `make zoo` (`python -m benchmarks.zoo --write`); do not edit.

Every method of Mergery on the same experts, which anyone can train again on two cores in minutes. For advice on models of your
own, with the time that each method takes, see [Which method, and which weights](choosing.md).

There are {count} worlds, so that a result is not an accident of one:

{worlds}

An expert is trained from the base on one skill. A score is the share of held-out items that are answered rightly, divided by
the score of that skill's own expert: 1 is as good as separate models. Scores are means over skills and {seeds}.
*Default* is with nothing set, *chosen* with the best of a few settings on validation items; where the best lay at an end
of what was tried, more was tried. All scores are on test items, which no choice has seen.

![Scores of every method in every world]({picture}.png)
"""


def write(results: Results, path: Path) -> None:
    """Write the page and its pictures."""
    tables = tables_of(results)
    bases = {world: float(np.mean(base_of(results[world]))) for world in tables}
    draw_methods(small(tables), bases, path.with_suffix(".png"))
    families = {line.name: line.family for line in next(iter(tables.values()))}
    draw_effects({world: growing(results[world]) for world in small(tables)}, families, picture(path))
    path.write_text(page(results, path))


def told(results: Results) -> str:
    """What `mergery plan` says of methods: the source of its module."""
    tables = tables_of(results)
    return module(tables, {world: base_of(results[world]) for world in tables}, learnt.advised(results))


def picture(path: Path) -> Path:
    """Where the picture of the effects is, beside the page."""
    return path.with_name(f"{path.stem}-effects.png")


def tables_of(results: Results) -> dict[str, list[Line]]:
    """Every world's methods."""
    return {world: lines(seeds) for world, seeds in results.items() if world in WORLDS}


def page(results: Results, path: Path) -> str:
    """The page."""
    tables = tables_of(results)
    tuned = small(tables)
    bases = {world: base_of(results[world]) for world in tables}
    listed = "\n".join(f"- **{world}**: {WORLDS[world]}" for world in tables)
    counts = {world: len(results[world]) for world in tuned}
    seeds = ", ".join(f"{count} in {world}" for world, count in counts.items())
    seeds = f"{max(counts.values())} seeds" if len(set(counts.values())) == 1 else f"seeds ({seeds})"
    head = HEAD.format(count=len(tables), worlds=listed, seeds=seeds, picture=path.stem)
    note = tuning(tables)
    opening = [line for seed in results.get(REAL, {}).values() for line in real_page.in_short(seed)]
    parts = [head, *([f"{note}\n"] if note else []), *in_short(tables, opening), *defaults(tables, bases)]
    parts += between(tables) + learnt.section(results)
    parts += [line for seed in results.get(REAL, {}).values() for line in real_page.advice(results, seed)]
    parts += by_family(tuned)
    for world, table in tables.items():
        parts += world_section(world, table, results[world], float(np.mean(bases[world])))
    parts += effects_section(results, tuned, path)
    return "\n".join(parts).rstrip() + "\n"


def by_family(tables: Mapping[str, Sequence[Line]]) -> list[str]:
    """The best of each family, settings chosen, and what the family costs."""
    unit = np.mean([line.seconds for table in tables.values() for line in table if line.name == "task_arithmetic"])
    rows = []
    for family, words in FAMILIES.items():
        own = {world: [line for line in table if line.family == family] for world, table in tables.items()}
        if all(own.values()):
            best = [max(line.mean for line in found) for found in own.values()]
            cost = np.median([line.seconds for found in own.values() for line in found]) / unit
            rows.append((np.mean(best), [words, *(f"{score:.3f}" for score in best), f"{cost:.0f}"]))
    return [
        "## By family",
        "",
        "The best of each family, with chosen settings where these were looked for.",
        "",
        *as_table(["family", *tables, "cost"], [row for _, row in sorted(rows, key=lambda each: -each[0])]),
        "",
        "`cost` is the median time of a merge against that of `task_arithmetic`; on models as small as these it says little"
        " but the order. [What methods cost](methods-cost.md) has that of real sizes.",
        "",
    ]


def world_section(world: str, table: Sequence[Line], seeds: Mapping[str, Any], base: float) -> list[str]:
    regime = [seed["regime"] for seed in seeds.values()]
    base_score, own = (np.mean([r[key] for r in regime]) for key in ("base", "own"))
    others = [r["others"] for r in regime]
    baseline = next(line for line in table if line.name == "task_arithmetic")
    own_seeds = f" between seeds with a mean rank correlation of {rank_correlation(table):.2f}"
    foreign = "" if None in others else f" and {100 * np.mean(others):.0f} % of the others'"
    text = [
        f"## {world.capitalize()}",
        "",
        f"The base answers {100 * base_score:.0f} % of the items; an expert {100 * own:.0f} % of its own skill's{foreign}. "
        f"Normalised, the base scores {base:.3f}."
        + (f" The order of the methods agrees{own_seeds}." if len(seeds) > 1 else ""),
        "",
    ]
    if world == REAL:
        (seed,) = seeds.values()  # it is trained once
        return text + real_page.section(seed, FAMILIES)
    text += short([(line.name, line.family, float(np.mean(line.default)), line.mean) for line in table])
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
        mean, half = gain(line.cells, baseline.cells)
        return "" if line is baseline else f"{mean:+.3f} ± {half:.3f}"

    for line in table:
        settings = ", ".join(f"{key} {value}" for key, value in line.settings.items()) or "default"
        text.append(
            f"| `{line.name}` | {FAMILIES[line.family]} | **{line.mean:.3f}** | {compared(line)} "
            f"| {np.mean(line.default):.3f} | {np.mean(line.worst):.3f} | {settings} | {line.tried} "
            f"| {'' if line.optimism is None else f'{line.optimism:+.3f}'} | {line.seconds:.2f} |"
        )
    text += ["", *LEGEND]
    return text


def effects_section(results: Results, tables: Mapping[str, Sequence[Line]], path: Path) -> list[str]:
    text = ["## Effects", "", "Effects that the literature reports, and whether they appear here.", ""]
    text += ladder(tables)
    widths: dict[int, dict[str, float]] = {}
    for name in results:
        if name.startswith("width "):
            widths[int(name.split()[1])] = {line.name: line.mean for line in lines(results[name])}
    if widths:
        shown = next(iter(widths.values()))
        widths[96] = {line.name: line.mean for line in tables.get("sequences", ()) if line.name in shown}
    growth = {world: growing(results[world]) for world in tables}
    text += [f"![Scores as experts are added]({picture(path).name})", "", *growth_text(growth)]
    if len(widths) > 1:
        text += width_text(widths)
    text += interference_text(results) + negation_text(results) + analogy_text(results)
    return text


def growing(seeds: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    """Mean default scores of the methods of the cases, by the number of experts."""
    found = [case for seed in seeds.values() for case in seed["cases"]]
    return {
        count: {
            name: float(np.mean([case["scores"][name] for case in found if len(case["skills"]) == count]))
            for name in found[0]["scores"]
        }
        for count in sorted({len(case["skills"]) for case in found})
    }


def growth_text(growth: Mapping[str, Mapping[int, Mapping[str, float]]]) -> list[str]:
    text = ["### More experts", "", "With nothing set; means over groups of so many experts.", ""]
    for world, counts in growth.items():
        spread = [max(score for score in scores.values()) - scores["linear"] for scores in counts.values()]
        word = "grows" if spread[-1] > spread[0] + 0.02 else "does not grow"
        text.append(
            f"- {world}: the gap between the best method and plain averaging {word} with {', '.join(map(str, counts))} "
            f"experts: {', '.join(f'{s:.3f}' for s in spread)}."
        )
        columns = ["method", *(f"{count} experts" for count in counts)]
        names = sorted(
            next(iter(counts.values())), key=lambda name: -float(np.mean([s[name] for s in counts.values()]))
        )
        rows = [[f"`{name}`", *(f"{scores[name]:.3f}" for scores in counts.values())] for name in names]
        text += ["", *fold(f"Scores in {world}", as_table(columns, rows))]
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
            mean, half = gain(after.cells, before.cells)
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


def interference_text(results: Results) -> list[str]:
    text = ["### Interference", ""]
    for world in WORLDS:
        entries = [seed["interference"] for seed in results.get(world, {}).values() if "interference" in seed]
        if entries:
            alone, together = (np.mean([entry[key] for entry in entries]) for key in ("alone", "together"))
            text.append(
                f"- {world}: one task vector alone, at the scale that is best for all together, gives its skill {alone:.3f}; "
                f"the sum of all gives {together:.3f}."
            )
    return [*text, ""]


def negation_text(results: Results) -> list[str]:
    rows = []
    for world in WORLDS:
        entries = [entry for seed in results.get(world, {}).values() for entry in seed.get("negation", ())]
        if entries:
            keys = [(key, side) for key in ("target", "control") for side in (0, 1)]
            rows.append([world, *(f"{np.mean([entry[key][side] for entry in entries]):.3f}" for key, side in keys)])
    return [
        "### Negation",
        "",
        "A skill's task vector subtracted from the base, as far as the other skills keep 95 % of the base's dev score.",
        "",
        *as_table(["world", "the skill, before", "after", "other skills, before", "after"], rows),
        "",
    ]


def analogy_text(results: Results) -> list[str]:
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
