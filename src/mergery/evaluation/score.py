"""A score: a function from a model to named numbers. Search, soups and reports ask for nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mergery.errors import TaskError
from mergery.evaluation.models import open_subject
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.results import Evaluation
from mergery.evaluation.running import answer_all, read_tasks
from mergery.evaluation.splits import Splits
from mergery.evaluation.task import Task


@runtime_checkable
class Score(Protocol):
    """A function from a model to named numbers. What a model is, is for the score to say."""

    def __call__(self, model: Any, /) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class TaskScore:
    """The score of choosing: metrics on tasks that are for choosing, by `task.metric`.

    Tasks come from `Splits`, as `splits.search` or `splits.validation`; those to report on, and tasks that were never split,
    are refused. The same items are put to every model, so that scores can be compared in pairs.
    """

    tasks: tuple[Task, ...]
    options: EvaluationOptions = field(default_factory=EvaluationOptions)
    results: Path | None = None

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task.role not in ("search", "validation"):
                why = "it is the part to report on" if task.role else "it has not been split"
                raise TaskError(
                    f"the task {task.name!r} cannot be used for choosing",
                    why=why,
                    hint="mergery.evaluation.split(...).search",
                )

    @classmethod
    def search(cls, splits: Splits, **settings: Any) -> TaskScore:
        """The score to search with."""
        return cls(splits.search, **settings)

    @classmethod
    def validation(cls, splits: Splits, **settings: Any) -> TaskScore:
        """The score to choose among few with."""
        return cls(splits.validation, **settings)

    def measure(self, model: Any, *, tokenizer: Any = None, name: str | None = None) -> Evaluation:
        """All results, item by item."""
        tasks = read_tasks(self.tasks, self.options)
        return answer_all(open_subject(model, tokenizer=tokenizer, name=name), tasks, self.options, self.results)

    def __call__(self, model: Any, /) -> Mapping[str, float]:
        return self.measure(model).scores
