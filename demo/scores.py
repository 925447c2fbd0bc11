"""The scores: every model on every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.table import Table
from transformers import AutoTokenizer, LlamaForCausalLM

from demo.tasks import Items, Task
from demo.train import measure

Group = Literal["base", "expert", "merge"]


@dataclass(frozen=True)
class Row:
    """One model's scores, in the order of the tasks."""

    name: str
    group: Group
    folder: Path
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.scores) / len(self.scores)


def score(name: str, group: Group, folder: Path, tasks: Sequence[Task]) -> Row:
    """Load the model of a folder and measure it on the test items of every task."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    items = Items(AutoTokenizer.from_pretrained(folder))
    return Row(name, group, folder, tuple(measure(model, items, task, "test") for task in tasks))


def best(rows: Sequence[Row]) -> Row | None:
    """The merge with the highest mean; None where nothing is merged."""
    return max((row for row in rows if row.group == "merge"), key=lambda row: row.mean, default=None)


def tabulate(rows: Sequence[Row], tasks: Sequence[Task]) -> Table:
    table = Table(header_style="bold")
    table.add_column("model", no_wrap=True)
    for task in tasks:
        table.add_column(task.name, justify="right")
    table.add_column("mean", justify="right", style="bold")
    winner = best(rows)
    for index, row in enumerate(rows):
        last = index + 1 == len(rows) or rows[index + 1].group != row.group
        cells = [f"{100 * value:.0f}" for value in [*row.scores, row.mean]]
        table.add_row(row.name, *cells, style="green" if row is winner else None, end_section=last)
    return table
