"""The picture: models by tasks, and the mean over all tasks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import FancyBboxPatch

from demo.scores import Row, best

COLORS = LinearSegmentedColormap.from_list("mergery", ["#f6f3ec", "#cfe3dc", "#7fbcb2", "#2f8a8b", "#0f4c5c"])
INK, QUIET, ACCENT = "#20303a", "#7b8790", "#d1603d"
GAP = 0.42
"""Empty height between two groups of rows, and empty width before the means."""


def draw(rows: Sequence[Row], tasks: Sequence[str], path: Path) -> None:
    """Draw one rounded cell for each score, in groups, with the best merge marked."""
    columns = [float(index) for index in range(len(tasks))] + [len(tasks) + GAP]
    heights: list[float] = []
    y = 0.0
    for index, row in enumerate(rows):
        y += GAP if index and row.group != rows[index - 1].group else 0.0
        heights.append(y)
        y += 1.0
    width = columns[-1] + 1.0
    figure, axes = plt.subplots(figsize=(1.08 * width + 2.6, 0.44 * y + 1.25), dpi=180)
    winner = best(rows)
    for row, top in zip(rows, heights, strict=True):
        for left, score in zip(columns, [*row.scores, row.mean], strict=True):
            cell = FancyBboxPatch(
                (left + 0.04, top + 0.06),
                0.92,
                0.88,
                boxstyle="round,pad=0,rounding_size=0.1",
                facecolor=COLORS(score),
                edgecolor="none",
            )
            axes.add_patch(cell)
            color = "white" if score > 0.6 else INK
            heavy = "bold" if left == columns[-1] else "normal"
            axes.text(
                left + 0.5,
                top + 0.52,
                f"{100 * score:.0f}",
                color=color,
                weight=heavy,
                ha="center",
                va="center",
                size=11,
            )
        color = ACCENT if row is winner else INK
        weight = "bold" if row is winner else "normal"
        axes.text(-0.15, top + 0.52, row.name, color=color, weight=weight, ha="right", va="center", size=11)
    if winner is not None:
        frame = FancyBboxPatch(
            (columns[-1] + 0.04, heights[list(rows).index(winner)] + 0.06),
            0.92,
            0.88,
            boxstyle="round,pad=0,rounding_size=0.1",
            facecolor="none",
            edgecolor=ACCENT,
            linewidth=2.2,
        )
        axes.add_patch(frame)
    for left, label in zip(columns, [*tasks, "mean"], strict=True):
        axes.text(left + 0.5, -0.18, label, color=INK, ha="center", va="bottom", size=11, weight="bold")
    axes.text(
        width / 2,
        y + 0.3,
        "held-out words answered exactly, in per cent",
        color=QUIET,
        ha="center",
        va="top",
        size=9.5,
    )
    axes.set_xlim(-2.5, width + 0.1)
    axes.set_ylim(y + 0.75, -0.85)
    axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15, facecolor="white")
    plt.close(figure)
