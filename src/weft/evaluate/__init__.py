"""Scores that can be trusted: what a model does on tasks, and whether a difference is more than noise.

    result = weft.evaluate("model", ["questions.jsonl"])          # the package is its own verb
    weft.compare([weft.evaluate(model, tasks) for model in models])
    splits = weft.evaluate.split("questions.jsonl", seed=0)

Names are loaded on first use.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.evaluate.comparison import Comparison, compare
    from weft.evaluate.models import Subject, open_subject
    from weft.evaluate.reading import load_task
    from weft.evaluate.results import Evaluation, Outcome, TaskResult, read_result
    from weft.evaluate.running import Options, evaluate
    from weft.evaluate.score import Score, TaskScore
    from weft.evaluate.splits import Splits, split
    from weft.evaluate.task import Item, Metric, Settings, Task

_HOMES = {
    "Comparison": "comparison", "compare": "comparison", "Evaluation": "results", "Outcome": "results",
    "TaskResult": "results", "read_result": "results", "Options": "running", "evaluate": "running",
    "Subject": "models", "open_subject": "models", "load_task": "reading", "Score": "score", "TaskScore": "score",
    "Splits": "splits", "split": "splits", "Item": "task", "Metric": "task", "Settings": "task", "Task": "task",
}  # fmt: skip

__all__ = [
    "Comparison", "Evaluation", "Item", "Metric", "Options", "Outcome", "Score", "Settings", "Splits", "Subject", "Task",
    "TaskResult", "TaskScore", "compare", "evaluate", "load_task", "open_subject", "read_result", "split",
]  # fmt: skip


class _Verb(types.ModuleType):
    """A module that can be called: `weft.evaluate(model, tasks)` is `weft.evaluate.evaluate(model, tasks)`."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self.evaluate(*arguments, **settings)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weft.evaluate' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"weft.evaluate.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


sys.modules[__name__].__class__ = _Verb
