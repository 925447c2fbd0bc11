"""A comparison as a picture: every model's score with its interval, a panel for each task, a group for each category."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.errors import RecipeError, TaskError

if TYPE_CHECKING:
    from mergery.evaluation.findings import Comparison, Interval

KINDS = (".png", ".svg", ".pdf")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # told apart with any colour vision
PARENT = "#8A8A8A"
MARKS = "osD^vP"
TOLD = 6  # verdicts in a panel's corner


def check_plot(path: Path) -> None:
    """Refuse a picture that cannot be drawn, before any work is done."""
    if path.suffix not in KINDS:
        raise TaskError(f"the plot {str(path)!r} is of no known kind", hint=f"a name that ends in {', '.join(KINDS)}")
    if not path.parent.is_dir():
        raise TaskError(f"there is no folder {str(path.parent)!r} for the plot", hint="make it first, or name another")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise RecipeError("--plot needs matplotlib", hint="pip install 'mergery[plots]'") from None


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture of a comparison."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(score.task for score in comparison.scores))
    panels = [[score for score in comparison.scores if score.task == task] for task in tasks]
    heights = [
        0.55
        + 0.12 * min(TOLD, len(comparison.pairs) // len(panels))
        + len(_parts(panel)) * (0.34 + 0.2 * len(comparison.models))
        for panel in panels
    ]
    figure = Figure(figsize=(8.0, sum(heights) + 0.65 * len(panels) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    styles = _styles(comparison)
    handles: dict[str, Any] = {}
    for axis, panel in zip(axes, panels, strict=True):
        _panel(axis, panel, comparison, styles, handles)
    names = [f"{name} (parent)" if name in comparison.parents else name for name in handles]
    figure.legend(handles.values(), names, loc="outside upper left", ncols=min(4, len(names)), frameon=False)
    figure.savefig(path, dpi=150)


def _parts(panel: list[Interval]) -> list[str]:
    return list(dict.fromkeys(score.category for score in panel))


def _styles(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Parents in grey and hollow, candidates in colours."""
    styles = {}
    colours, parents = 0, 0
    for name in comparison.models:
        if name in comparison.parents:
            styles[name] = {"color": PARENT, "marker": MARKS[parents % len(MARKS)], "markerfacecolor": "white"}
            parents += 1
        else:
            styles[name] = {"color": COLOURS[colours % len(COLOURS)], "marker": MARKS[colours % len(MARKS)]}
            colours += 1
    return styles


def _panel(
    axis: Any, panel: list[Interval], comparison: Comparison, styles: dict[str, dict[str, Any]], handles: dict[str, Any]
) -> None:
    parts, models = _parts(panel), comparison.models
    step = 0.75 / len(models)
    for score in panel:
        place = parts.index(score.category) + (models.index(score.model) - (len(models) - 1) / 2) * step
        errors = [[max(0.0, score.value - score.low)], [max(0.0, score.high - score.value)]]
        handles[score.model] = axis.errorbar(
            score.value, place, xerr=errors, capsize=2.5, markersize=5, linewidth=1.4, **styles[score.model]
        )
    for edge in range(1, len(parts)):
        axis.axhline(edge - 0.5, color="#DDDDDD", linewidth=0.8)
    counts = {score.category: score.items for score in panel}
    axis.set_yticks(range(len(parts)), [f"{part or 'all items'}\n({counts[part]})" for part in parts], fontsize=9)
    axis.set_ylim(len(parts) - 0.45, -0.55)
    axis.grid(axis="x", color="#EEEEEE")
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    pairs = [pair for pair in comparison.pairs if pair.task == panel[0].task]
    better = "" if not pairs or pairs[0].higher else ", lower is better"
    told = [f"{pair.candidate} against {pair.reference}: {pair.verdict}" for pair in pairs]
    axis.set_title("\n".join(told[:TOLD]), loc="right", fontsize=8, color="#555555")
    axis.set_title(panel[0].task, loc="left", fontsize=11, fontweight="bold")
    axis.set_xlabel(f"{panel[0].metric.replace('_', ' ')} (95% intervals{better})", fontsize=9)
    low, high = min(score.low for score in panel), max(score.high for score in panel)
    if math.isclose(low, high):
        axis.set_xlim(low - 0.05, high + 0.05)
