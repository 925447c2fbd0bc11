"""What a person sees of scores: a bar while they are made, then tables and findings."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from mergery.evaluation.findings import Comparison, Interval
    from mergery.evaluation.results import Evaluation

SHOWN = 8  # items named in a table


class ScoreReporter:
    """A progress bar on a terminal, plain lines elsewhere, JSON events, or nothing."""

    def __init__(self, *, json_events: bool = False, quiet: bool = False) -> None:
        self.json_events, self.quiet = json_events, quiet
        self.bar: Any = None
        self.rows: dict[str, Any] = {}
        if not json_events and not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                console=Console(stderr=True), transient=True,
            )  # fmt: skip

    def event(self, event: dict[str, Any]) -> None:
        """Something happened."""
        if self.json_events:
            print(json.dumps(event), flush=True)
        elif not self.quiet:
            self.tell(event)

    def tell(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "load":
            self.say(f"loading {event['model']}")
        elif kind == "task" and event["resumed"] and event["resumed"] < event["items"]:
            self.say(f"{event['task']}: going on: {event['resumed']} of {event['items']} items are done")
        elif kind == "scores" and event["cut"]:
            self.say(f"{event['task']}: {event['cut']} items are longer than the model takes at once, and were cut")
        if self.bar is not None and kind == "task":
            self.bar.start()
            self.rows[event["task"]] = self.bar.add_task(
                event["task"], total=event["items"], completed=event["resumed"]
            )
        elif self.bar is not None and kind == "progress":
            self.bar.update(self.rows[event["task"]], completed=event["done"])

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)


def show_evaluation(evaluation: Evaluation) -> None:
    """A model's scores as a table."""
    from rich.table import Table

    table = Table("task", "kind", "items", "metric", "score", box=None, header_style="bold", pad_edge=False)
    for task in evaluation.tasks:
        for index, metric in enumerate(task.metrics):
            first = (task.task, task.kind, str(len(task.items))) if index == 0 else ("", "", "")
            arrow = "" if metric.higher else " (lower is better)"
            table.add_row(*first, metric.name + arrow, f"{task.scores[metric.name]:.4f}")
    out = console()
    out.print(table)
    for file in dict.fromkeys(task.file for task in evaluation.tasks if task.file):
        out.print(f"items in {file}", soft_wrap=True)


def show_comparison(comparison: Comparison) -> None:
    """A comparison as tables, and its findings in words."""
    out = console()
    for task in dict.fromkeys(score.task for score in comparison.scores):
        _show_scores(out, comparison, task)
        _show_overlaps(out, comparison, task)
        for pair in comparison.pairs:
            if pair.task == task:
                out.print(f"- {pair.words}")
        for optimism in comparison.optimisms:
            if optimism.task == task:
                out.print(f"- {optimism.words}")
        out.print()


def _show_scores(out: Console, comparison: Comparison, task: str) -> None:
    from rich.table import Table

    own = [score for score in comparison.scores if score.task == task]
    parts = list(dict.fromkeys(score.category for score in own))
    by_place = {(score.model, score.category): score for score in own}
    table = Table(
        title=f"{task}: {own[0].metric}, 95% intervals",
        box=None,
        header_style="bold",
        pad_edge=False,
        title_justify="left",
    )
    table.add_column("model")
    for part in parts:
        table.add_column(f"{part or 'all'} ({by_place[own[0].model, part].items})", justify="right")
    for model in comparison.models:
        parent = " (parent)" if model in comparison.parents else ""
        table.add_row(model + parent, *(_cell(by_place[model, part]) for part in parts))
    out.print(table)


def _cell(score: Interval) -> str:
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _show_overlaps(out: Console, comparison: Comparison, task: str) -> None:
    from rich.table import Table

    found = [overlap for overlap in comparison.overlaps if overlap.task == task]
    if not found:
        return
    whom = "parents" if comparison.parents else "others"
    table = Table(
        "model",
        f"of what all {whom} solve",
        f"of what any of the {whom} solves",
        "it alone solves",
        "it loses",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for overlap in found:
        kept = f"{overlap.shared - len(overlap.lost)} of {overlap.shared}"
        share = f" ({overlap.retention:.0%})" if overlap.retention is not None else ""
        reached = f"{overlap.reached} of {overlap.reachable}"
        table.add_row(overlap.candidate, kept + share, reached, _some(overlap.gained), _some(overlap.lost))
    out.print(table)


def _some(items: tuple[str, ...]) -> str:
    if not items:
        return "-"
    more = ", ..." if len(items) > SHOWN else ""
    return f"{len(items)}: {', '.join(items[:SHOWN])}{more}"
