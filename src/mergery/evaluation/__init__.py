"""Scores that can be trusted: what a model does on tasks, and whether a difference is more than noise.

    result = mergery.evaluate("model", ["questions.jsonl"])
    mergery.compare([mergery.evaluate(model, tasks) for model in models])
    splits = mergery.evaluation.split("questions.jsonl", seed=0)

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergery.evaluation.findings import Comparison
    from mergery.evaluation.models import Subject, open_subject
    from mergery.evaluation.options import EvaluationOptions
    from mergery.evaluation.reading import load_task
    from mergery.evaluation.results import Evaluation, Outcome, TaskResult, read_result
    from mergery.evaluation.score import Score, TaskScore
    from mergery.evaluation.splits import Splits, split
    from mergery.evaluation.task import Item, Metric, Settings, Task

_HOMES = {
    "Comparison": "findings", "Evaluation": "results", "Outcome": "results",
    "TaskResult": "results", "read_result": "results", "EvaluationOptions": "options",
    "Subject": "models", "open_subject": "models", "load_task": "reading", "Score": "score", "TaskScore": "score",
    "Splits": "splits", "split": "splits", "Item": "task", "Metric": "task", "Settings": "task", "Task": "task",
}  # fmt: skip

__all__ = [
    "Comparison",
    "Evaluation",
    "EvaluationOptions",
    "Item",
    "Metric",
    "Outcome",
    "Score",
    "Settings",
    "Splits",
    "Subject",
    "Task",
    "TaskResult",
    "TaskScore",
    "load_task",
    "open_subject",
    "read_result",
    "split",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mergery.evaluation' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"mergery.evaluation.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
