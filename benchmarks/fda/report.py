"""docs/fda.md, and its picture, from the figures that were kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.pages import figures, table

from mergery.calibration.anchors.search import PRESETS

NAMES = {
    "pretrained": "the base",
    "task_arithmetic": "task arithmetic, 0.3",
    "tsv_merge": "TSV-Merge",
    "wudi": "WUDI",
}
WORDS = {"gauss": "small normal numbers", "weights": "rows of weights"}
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 %, by the number of seeds

HEAD = """\
# Functional dual anchors, measured

Made by `python -m benchmarks.fda`, which trains the models and writes this page; do not edit.
[Calibration](calibration.md#functional-dual-anchors) says how the method is used.

[The paper](https://arxiv.org/abs/2510.21223) merges eight image encoders of CLIP and finds an order: the base is below task
arithmetic, task arithmetic below itself refined on anchors, WUDI refined is best, and the two beginnings of the search do
alike. It says too that the spectra of anchors come to have long tails. Here the same is asked of models that train in a
minute.
"""

SETUP = """
## The models

The encoders of the [zoo](which-method.md): residual MLPs over 8 x 8 digits, {layers} blocks of width {width}. {count} skills
show the digits in a way of their own or ask another question of them, and have classifiers of their own that stay as they
are, as in the paper. {seeds} seeds, each a base and {count} experts. A score is the share of held-out items that a merge
answers, over the share that the expert answers, as a mean over skills.

Anchors: 128 for each block and expert, of one token, as nothing in these blocks mixes tokens; {steps} steps of the search,
cosine distance, the cosine of each tensor's gradient. Task arithmetic is refined by a coefficient for each number of each
task vector, the other hosts by one for each number of theirs, and the base's weights freely; {epochs} passes over the
anchors, as in the preset `cheap`. The authors choose their number with labelled items; nothing is chosen here.
"""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, math.nan
    return mean, STUDENT.get(len(values), 2.0) * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def shown(values: Sequence[float], *, sign: bool = False) -> str:
    mean, half = interval(values)
    text = f"{100 * mean:+.1f}" if sign else f"{100 * mean:.1f}"
    return text if math.isnan(half) else f"{text} ± {100 * half:.1f}"


def page(data: Mapping[str, Any]) -> str:
    """The page."""
    seeds = data["seeds"]
    facts = {"layers": 3, "width": 128, "count": len(data["skills"]), "seeds": len(seeds), "steps": data["steps"]}
    epochs = data["epochs"][0]
    lines = [HEAD, SETUP.format(**facts, epochs=epochs), "## The order", ""]
    rows = []
    for name in seeds[0]["hosts"]:
        plain = scores(data, name, "plain")
        cells = [NAMES[name], shown(plain)]
        for start in WORDS:
            found = scores(data, name, start)
            cells += [shown(found), shown([b - a for a, b in zip(plain, found, strict=True)], sign=True)]
        rows.append(cells)
    columns = ["host", "as it is", "refined, from normal numbers", "gain", "refined, from rows of weights", "gain"]
    lines += [*table(columns, rows), ""]
    lines += ["Percent of the experts' scores, means and 95 % intervals over seeds.", ""]
    lines += ["| what the paper finds | here | |", "|---|---|---|"]
    lines += [f"| {claim} | {said} | {verdict} |" for claim, said, verdict in claims(data)]
    lines += ["", *meaning(data), "## What a short search loses", ""]
    lines += [
        "A search of 40 steps, which is the preset `cheap`, against longer ones; the same passes of refining. Seconds are of",
        "one core's time, for all blocks and experts.",
        "",
    ]
    rows = []
    for steps in dict.fromkeys(each["steps"] for seed in seeds for each in seed["search"]):
        found = [each for seed in seeds for each in seed["search"] if each["steps"] == steps]
        seconds = float(np.mean([each["seconds"] for each in found]))
        loss = float(np.mean([each["loss"] for each in found]))
        rows.append([steps, f"{loss:.3f}", f"{seconds:.0f}", shown([each["score"] for each in found]), len(found)])
    lines += [*table(["steps", "1 - cos at the end", "seconds", "task arithmetic, refined", "seeds"], rows), ""]
    lines += ["## What anchors are like", "", "![Spectra of anchors](fda.png)", ""]
    rows = []
    for start, words in WORDS.items():
        found = [seed["anchors"][start] for seed in seeds]
        first, last = np.mean([each["losses"] for each in found], axis=0)
        begun, ended = np.mean([each["directions"] for each in found], axis=0)
        rows.append([words, f"{first:.3f}", f"{last:.3f}", f"{begun:.0f}", f"{ended:.0f}"])
    columns = ["beginning", "1 - cos at first", "at last", "directions of 90 % of the energy at first", "at last"]
    lines += [*table(columns, rows), ""]
    lines += [
        "Means over blocks, experts and seeds, of 128 directions. `mergery anchors inspect` says the same of your own anchors,",
        "and how much of the task vectors and of real inputs lies along them.",
        "",
    ]
    return "\n".join(
        [
            *lines,
            *language(figures("with-data").get("sequences", {})),
            *text(figures("fda-text").get("rows", ())),
            *costs(figures("fda-cost")),
        ]
    )


def costs(found: Mapping[str, Any]) -> list[str]:
    """What the presets take for language models."""
    if not found:
        return []
    rows = []
    for name, each in found.items():
        hours = [
            each["step"] * PRESETS[preset, False].anchors * PRESETS[preset, False].steps * each["layers"] / 3600.0
            for preset in ("cheap", "paper")
        ]
        rows.append([name, each["width"], f"{1e3 * each['step']:.1f}", *(f"{own:.1f}" for own in hours)])
    columns = ["model", "width", "ms of a step with one anchor", "hours with `cheap`", "hours with `paper`"]
    return [
        "## What presets cost",
        "",
        "For the MLPs of a language model and one expert, on one core: `cheap` is 1024 anchors and 40 steps for each block,",
        "`paper` 8192 and 200. A few steps were timed (`python -m benchmarks.fda.cost`), the rest is multiplication. `--count`",
        "and `--steps` say otherwise; `--device cuda` is meant for larger models.",
        "",
        *table(columns, rows),
        "",
    ]


def language(by_seed: Mapping[str, Any]) -> list[str]:
    """Hosts of the zoo's small language models, as they are and refined."""
    rows = []
    for host in ("task_arithmetic", "tsv_merge", "wudi", "swudi"):
        seeds = [each for each in by_seed.values() if f"FDA on {host}" in each]
        if not seeds:
            continue
        plain, refined = ([each[name]["chosen"] for each in seeds] for name in (host, f"FDA on {host}"))
        gain = [b - a for a, b in zip(plain, refined, strict=True)]
        rows.append(
            [
                host,
                *(f"{100 * np.mean(each):.1f}" for each in (plain, refined)),
                ", ".join(f"{100 * each:+.1f}" for each in gain),
            ]
        )
    if not rows:
        return []
    return [
        "## Language models",
        "",
        "The zoo's sequences: Llamas of 2 layers of width 96 with eight skills. 256 anchors of each block's MLP, 40 steps;",
        "hosts with the settings that are best on held-out items, and 15 or 50 passes of refining, chosen so as well. Percent",
        "of the experts' right answers.",
        "",
        *table(["host", "as it is", "refined", "gain of each seed"], rows),
        "",
    ]


def text(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Anchors of language models beside real text."""
    if not rows:
        return []
    cells = [
        [
            WORDS[each["start"]], each["steps"], f"{each['loss']:.3f}", f"{each['seconds']:.0f}",
            f"{each['directions']:.0f}", f"{each['kept']:.2f}", f"{each['alike']:.2f}",
        ]
        for each in rows
    ]  # fmt: skip
    columns = [
        "beginning",
        "steps",
        "1 - cos",
        "s",
        "directions of 90 % of the energy",
        "of the task vectors",
        "of text",
    ]
    return [
        "## Beside real text",
        "",
        "The same language models (`python -m benchmarks.fda.text`, one seed): of the leading fifth of the directions of what",
        "anchors make a block's matrices see, how much lies in the leading fifth of what 64 texts of the skill make them see;",
        "and how much of the task vectors' energy lies along them. A fifth at random would have .20 of either. Seconds are of",
        "one core's time, for all blocks and experts.",
        "",
        *table(columns, cells),
        "",
        *likeness(rows),
    ]


def likeness(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the search makes of the likeness with text, beside what the paper finds."""
    by_start = [[each for each in rows if each["start"] == start] for start in WORDS]
    rises = all(own[1]["alike"] > own[0]["alike"] for own in by_start if len(own) > 1)
    falls = all(own[-1]["alike"] < own[1]["alike"] for own in by_start if len(own) > 2)
    if not rises or not falls:
        return []
    return [
        "The paper finds that anchors come to be more like real features as the search goes on. Here they do so at first, and",
        "a longer search, which comes nearer to the gradients, makes them less like text again: another reason for short ones.",
        "",
    ]


def meaning(data: Mapping[str, Any]) -> list[str]:
    """What hosts that gain and hosts that lose tell."""
    lost = []
    for name in NAMES:
        mean, half = interval([b - a for a, b in zip(scores(data, name, "plain"), mean_of(data, name), strict=True)])
        lost += [NAMES[name]] if mean < 0.0 and (math.isnan(half) or -mean > half) else []
    ends = [100 * float(np.mean(mean_of(data, name))) for name in NAMES]
    if not lost:
        return []
    return [
        f"Wherever refining begins, it ends between {min(ends):.0f} and {max(ends):.0f}: anchors of so short a search hold",
        f"that much of what the experts know. Hosts far below that gain; {' and '.join(lost)}, above it in this world, loses.",
        "So score a merge before and after, and keep the better one.",
        "",
    ]


def scores(data: Mapping[str, Any], name: str, what: str) -> list[float]:
    """A host's scores by seed: as it is (`plain`), or refined from one of the beginnings."""
    found = [seed["hosts"][name][what] for seed in data["seeds"]]
    return [each if what == "plain" else each["score"] for each in found]


def claims(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the paper finds, what is found here, and whether that agrees."""
    base, plain = scores(data, "pretrained", "plain"), scores(data, "task_arithmetic", "plain")
    refined = mean_of(data, "task_arithmetic")
    found = [compared("the base is below task arithmetic", base, plain)]
    found.append(compared("task arithmetic is below itself refined on anchors", plain, refined))
    for name in ("tsv_merge", "wudi"):
        words = f"{NAMES[name]} is below itself refined"
        found.append(compared(words, scores(data, name, "plain"), mean_of(data, name)))
    found.append(compared("the base refined is above task arithmetic", plain, mean_of(data, "pretrained")))
    means = {name: float(np.mean(mean_of(data, name))) for name in NAMES}
    best = max(means, key=lambda name: means[name])
    said = f"{NAMES[best]} refined is, with {100 * means[best]:.1f}; WUDI has {100 * means['wudi']:.1f}"
    found.append(("WUDI refined is best", said, "yes" if best == "wudi" else "no"))
    gaps = [float(np.mean(scores(data, name, "weights")) - np.mean(scores(data, name, "gauss"))) for name in NAMES]
    worst = max(gaps, key=abs)
    said = f"they differ by {100 * abs(worst):.1f} points at most"
    found.append(("both beginnings do alike", said, "yes" if abs(worst) < 0.02 else "no"))
    begun, ended = np.mean([seed["anchors"]["gauss"]["directions"] for seed in data["seeds"]], axis=0)
    said = f"nine tenths of the energy lie in {ended:.0f} directions, and in {begun:.0f} of normal numbers"
    found.append(("spectra of anchors get long tails", said, "yes" if ended < 0.8 * begun else "no"))
    return found


def mean_of(data: Mapping[str, Any], name: str) -> list[float]:
    """A refined host's scores by seed, as a mean over beginnings."""
    return [float(np.mean(pair)) for pair in zip(*(scores(data, name, start) for start in WORDS), strict=True)]


def compared(claim: str, low: Sequence[float], high: Sequence[float]) -> tuple[str, str, str]:
    """Whether the second is above the first, seed by seed."""
    gains = [b - a for a, b in zip(low, high, strict=True)]
    mean, half = interval(gains)
    sure = not math.isnan(half) and abs(mean) > half
    return (
        claim,
        f"by {shown(gains, sign=True)} points",
        ("yes" if mean > 0 else "no") if sure else "not told by these seeds",
    )


def draw(data: Mapping[str, Any], path: Path) -> None:
    """Spectra at the beginning and the end of the search, and hosts with and without refining."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), dpi=150, layout="constrained")
    for start, colour in (("gauss", "#0072B2"), ("weights", "#D55E00")):
        begun, ended = np.mean([seed["anchors"][start]["spectrum"] for seed in data["seeds"]], axis=0)
        left.plot(np.arange(1, len(begun) + 1), begun, color=colour, ls=":", label=f"{WORDS[start]}, at first")
        left.plot(np.arange(1, len(ended) + 1), ended, color=colour, label=f"{WORDS[start]}, at last")
    left.set_yscale("log")
    left.set_xlabel("direction")
    left.set_title("singular values of anchors, over the largest", fontsize=10)
    left.legend(frameon=False, fontsize=8)
    for row, name in enumerate(NAMES):
        plain = [100 * each for each in scores(data, name, "plain")]
        right.scatter(plain, [row] * len(plain), s=16, color="#8A8A8A", label="as it is" if row == 0 else None)
        for shift, (start, colour) in ((-0.12, ("gauss", "#0072B2")), (0.12, ("weights", "#D55E00"))):
            found = [100 * each for each in scores(data, name, start)]
            label = f"refined, from {WORDS[start]}" if row == 0 else None
            right.scatter(found, [row + shift] * len(found), s=16, color=colour, label=label)
    right.set_yticks(range(len(NAMES)), list(NAMES.values()))
    right.invert_yaxis()
    right.set_title("percent of the experts' scores, a dot for each seed", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    for panel in (left, right):
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    figure.savefig(path)
    plt.close(figure)
