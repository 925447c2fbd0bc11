"""What a candidate is worth: one number of all tasks, asked in portions, so that a hopeless one is told early."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergery.errors import TaskError
from mergery.evaluation.loading import Head
from mergery.evaluation.models import Subject
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.results import mean
from mergery.evaluation.running import answer_all
from mergery.evaluation.splits import position
from mergery.evaluation.task import Task

PORTIONS = 4  # in which the items are asked
CERTAIN = 2.0  # standard errors by which a candidate must be behind to be given up
LEAST = 16  # items before anything is given up

Found = dict[str, list[float]]  # what the items of each task gave, in the order of the portions


@dataclass(frozen=True)
class Objective:
    """The mean over tasks of the metric that each is compared by, its sign such that more is better."""

    tasks: tuple[Task, ...]
    options: EvaluationOptions
    portions: tuple[tuple[Task, ...], ...]
    anchors: tuple[Task, ...] = ()  # the first items of every task, which tell candidates where not all are asked

    @property
    def head(self) -> Head:
        """What all tasks ask of a model."""
        return "labels" if self.tasks[0].kind == "classification" else "language"

    @property
    def items(self) -> int:
        return sum(len(task) for task in self.tasks)

    def score(self, found: Mapping[str, Sequence[float]]) -> float:
        """The value of what the items gave, be it of all portions or of the first ones."""
        return math.fsum(self.scores(found)) / len(self.tasks)

    def scores(self, found: Mapping[str, Sequence[float]]) -> list[float]:
        """The same of each task by itself."""
        return [self._of_task(task, found[task.name]) for task in self.tasks]

    def _of_task(self, task: Task, values: Sequence[float]) -> float:
        metric = task.metrics[0]
        array = np.array(values, np.float64)
        value = mean(array[0::2], array[1::2], metric)
        return value if metric.higher else -value

    def behind(self, found: Found, best: Mapping[str, Sequence[float]]) -> bool:
        """Whether what the first items gave is worse than the best candidate's on the same items, beyond doubt."""
        total, variance, items = 0.0, 0.0, 0
        for task in self.tasks:
            own = np.array(found[task.name], np.float64)
            other = np.array(best[task.name][: len(own)], np.float64)
            sign = 1.0 if task.metrics[0].higher else -1.0
            differences = sign * (own[0::2] - other[0::2])
            weights = own[1::2] / own[1::2].mean()
            differences = differences * weights
            items += len(differences)
            total += float(differences.mean())
            variance += float(differences.var(ddof=1)) / len(differences) if len(differences) > 1 else math.inf
        return items >= LEAST and total + CERTAIN * math.sqrt(variance) < 0

    def estimate(self, found: Found, best: Mapping[str, Sequence[float]]) -> float:
        """The score of a candidate that was given up: the best one's, and the difference on the items that were asked."""
        part = {name: list(best[name][: len(values)]) for name, values in found.items()}
        return self.score(best) + self.score(found) - self.score(part)


def make_objective(
    tasks: Sequence[Task], options: EvaluationOptions, seed: int, *, pareto: bool = False, anchors: int = 0
) -> Objective:
    """The objective over tasks, with their items in portions by their content; `pareto` where no mean of them is wanted.

    anchors: items of all tasks that stand for all, each task with its share and one at least.

    Raises TaskError.

    Values and weights of the items stand in turn in what is found.
    """
    higher = {task.metrics[0].higher for task in tasks}
    if not tasks:
        raise TaskError("there is no task", why="candidates are told apart by scores", hint="--tasks FILE.jsonl")
    if pareto and len(tasks) < 2:
        raise TaskError("there is one goal", why="each task is one, and there is one task", hint="leave out --pareto")
    if len(higher) > 1 and not pareto:
        up = next(task for task in tasks if task.metrics[0].higher)
        down = next(task for task in tasks if not task.metrics[0].higher)
        why = (
            f"of {up.metrics[0].name} more is better, of {down.metrics[0].name} less, and a mean of both means nothing"
        )
        hint = "--pareto, which has a goal for each task, or tasks of one kind"
        raise TaskError(f"{up.name} and {down.name} cannot be searched together", why=why, hint=hint)
    kinds = {task.kind == "classification" for task in tasks}
    if len(kinds) > 1:
        why = "one asks for a head of labels, the other for a language model"
        raise TaskError("these tasks are of two kinds of models", why=why, hint="search with tasks of one kind")
    orders = [sorted(range(len(task.items)), key=lambda at: (position(task.items[at], seed), at)) for task in tasks]
    portions = []
    for number in range(PORTIONS):
        part = []
        for task, places in zip(tasks, orders, strict=True):
            own = places[number * len(places) // PORTIONS : (number + 1) * len(places) // PORTIONS]
            if own:
                part.append(task.part([task.items[index] for index in own], "search"))
        portions.append(tuple(part))
    few: list[Task] = []
    for task, places in zip(tasks, orders, strict=True) if anchors else ():
        count = max(1, round(anchors * len(task) / sum(map(len, tasks))))
        few.append(task.part([task.items[index] for index in places[:count]], "search"))
    return Objective(tuple(tasks), options, tuple(filter(None, portions)), tuple(few))


Watch = Callable[[Found], bool]  # told what has been found so far; whether to go on


def ask(subject: Subject, objective: Objective, watch: Watch) -> tuple[Found, bool]:
    """Put the items to a model, portion by portion. Returns what they gave, and whether it was given up on the way."""
    found: Found = {task.name: [] for task in objective.tasks}
    for number, portion in enumerate(objective.portions):
        for result in answer_all(subject, portion, objective.options).tasks:
            values, weights = result.columns(result.metrics[0].name)
            found[result.task] += np.stack([values, weights], 1).ravel().tolist()
        last = number + 1 == len(objective.portions)
        if not last and all(found.values()) and not watch(found):
            return found, True
    return found, False
