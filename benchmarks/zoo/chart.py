"""The zoo as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from benchmarks.zoo.summary import Line
from matplotlib.lines import Line2D

INK, QUIET, GRID = "#20303a", "#7b8790", "#e4e1d8"
COLORS = {
    "average": "#7b8790",
    "arithmetic": "#d1603d",
    "sparse": "#d9a441",
    "span": "#8a6bb1",
    "spectral": "#2f8a8b",
    "quadratic": "#0f4c5c",
    "serving": "#b0568a",
}


def draw_methods(worlds: Mapping[str, Sequence[Line]], bases: Mapping[str, float], path: Path) -> None:
    """Every method in every world: settings by default, and chosen on validation items, with the seeds behind."""
    order = [line.name for line in mean_order(worlds)]
    families = {line.name: line.family for line in next(iter(worlds.values()))}
    height = 0.27 * len(order) + 1.6
    figure, panels = plt.subplots(1, len(worlds), figsize=(3.4 * len(worlds) + 2.2, height), sharey=True, dpi=150)
    for axes, (world, table) in zip(np.atleast_1d(panels), worlds.items(), strict=True):
        by_name = {line.name: line for line in table}
        for row, name in enumerate(order):
            line = by_name[name]
            color = COLORS[line.family]
            axes.plot([np.mean(line.default), line.mean], [row, row], color=color, lw=1.2, alpha=0.45, zorder=2)
            axes.scatter(line.chosen, [row] * len(line.chosen), s=9, color=color, alpha=0.4, lw=0, zorder=3)
            axes.scatter([np.mean(line.default)], [row], s=34, facecolor="white", edgecolor=color, lw=1.4, zorder=4)
            axes.scatter([line.mean], [row], s=40, color=color, zorder=5)
        axes.axvline(bases[world], color=QUIET, lw=1, ls=":", zorder=1)
        axes.text(bases[world], -0.45, " base", color=QUIET, size=8.5, ha="left", va="center")
        low = min(bases[world], *(min(line.mean, *line.chosen) for line in table))
        axes.set_xlim(max(0.0, low - 0.08), 1.01)
        axes.set_title(world, color=INK, size=12, weight="bold", pad=14)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_yticks(range(len(order)), order)
        axes.grid(axis="x", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, labelsize=9.5)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_xlabel("score of the merge over the experts' own", color=QUIET, size=9)
    for label, name in zip(np.atleast_1d(panels)[0].get_yticklabels(), order, strict=True):
        label.set_color(COLORS[families[name]])
    handles = [
        Line2D([], [], marker="o", ls="", color=COLORS[each], label=each) for each in dict.fromkeys(families.values())
    ]
    handles += [Line2D([], [], marker="o", ls="", mfc="white", mec=INK, label="default settings")]
    handles += [Line2D([], [], marker="o", ls="", color=INK, label="chosen on validation items")]
    figure.legend(handles=handles, loc="lower center", ncol=len(handles), frameon=False, fontsize=8.5)
    figure.tight_layout(rect=(0, 0.9 / height * 0.5, 1, 1))
    figure.savefig(path, facecolor="white")
    plt.close(figure)


def mean_order(worlds: Mapping[str, Sequence[Line]]) -> list[Line]:
    """Methods that all worlds have, by their mean over these, best first."""
    whole = set.intersection(*({line.name for line in table} for table in worlds.values()))
    first = [line for line in next(iter(worlds.values())) if line.name in whole]
    score = {
        line.name: np.mean([each.mean for t in worlds.values() for each in t if each.name == line.name])
        for line in first
    }
    return sorted(first, key=lambda line: -score[line.name])


def draw_effects(
    growth: Mapping[str, Mapping[int, Mapping[str, float]]], families: Mapping[str, str], path: Path
) -> None:
    """Scores with nothing set as experts are added, world by world."""
    figure, panels = plt.subplots(1, len(growth), figsize=(2.6 * len(growth) + 1.8, 3.9), sharey=True, dpi=150)
    for axes, (world, counts) in zip(np.atleast_1d(panels), growth.items(), strict=True):
        for name in next(iter(counts.values())):
            color = COLORS.get(families.get(name, ""), QUIET)
            style = ":" if name == "base" else "-"
            values = [scores[name] for scores in counts.values()]
            axes.plot(list(counts), values, ls=style, marker="o", ms=3, color=color, lw=1.3, label=name)
        axes.set_xticks(list(counts), map(str, counts))
        axes.set_title(world, color=INK, size=11, weight="bold")
        axes.set_xlabel("experts", color=QUIET)
        axes.grid(color=GRID, lw=0.8)
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    np.atleast_1d(panels)[0].set_ylabel("normalised score", color=QUIET)
    np.atleast_1d(panels)[-1].legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    figure.savefig(path, facecolor="white")
    plt.close(figure)
