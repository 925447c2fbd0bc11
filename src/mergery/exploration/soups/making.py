"""Soups of models on tasks: what each weighting is worth, with one model in memory and every answer kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.results import Evaluation, mean
from mergery.evaluation.running import answer_all
from mergery.evaluation.task import Task
from mergery.exploration.live import LiveModel
from mergery.exploration.parallel.asking import Office
from mergery.recipe import Recipe
from mergery.recipe.reading import load_recipe
from mergery.run.events import Notify, Tried, ignore

Weights = Mapping[str, float]  # by model; models that are not named are not in the soup


@dataclass(frozen=True)
class Taste:
    """What a soup is worth on some items."""

    weights: Weights
    score: float  # the mean over categories
    categories: Mapping[str, float]


@dataclass
class Kitchen:
    """The models, and the one of them, or soup of them, that is in memory.

    models: sources as a recipe names them, by name.
    """

    models: Mapping[str, Any]
    live: LiveModel
    options: EvaluationOptions
    results: Path  # in which every answer is kept: what has been asked before is not computed again
    folder: Path = Path()
    notify: Notify = ignore
    most: int = 0  # soups that will be tasted, as far as that is known
    tasted: dict[str, Evaluation] = field(default_factory=dict)
    best: float = -math.inf
    office: Office = field(default_factory=Office)  # several workers that taste beforehand, if there are any

    def recipe(self, weights: Weights) -> Recipe:
        """The recipe of a soup. Of one model it is a copy."""
        return load_recipe(self.data(weights), folder=self.folder)

    def data(self, weights: Weights) -> dict[str, Any]:
        """The recipe of a soup as plain data."""
        models = {name: self.models[name] for name in weights}
        if len(weights) == 1:
            return {"models": models, "merge": {"method": "passthrough", "models": list(models)}}
        return {"models": models, "merge": {"method": "linear", "weight": dict(weights)}}

    def measure(self, weights: Weights, tasks: Sequence[Task], name: str = "soup") -> Evaluation:
        """All answers of a soup."""
        weights, key = _used(weights, tasks)
        if key not in self.tasted:
            subject = self.live.subject(self.recipe(weights), name)
            self.tasted[key] = answer_all(subject, tasks, self.options, self.results)
        return self.tasted[key]

    def ahead(self, soups: Sequence[Weights], tasks: Sequence[Task], names: Sequence[str] = ()) -> None:
        """Let several workers taste soups that will be asked for, under their names."""
        wanted: dict[str, tuple[Mapping[str, Any], str]] = {}
        for soup, name in zip(soups, names or ["soup"] * len(soups), strict=True):
            weights, key = _used(soup, tasks)
            if key not in self.tasted:
                wanted.setdefault(key, (self.data(weights), name))  # under the name that it is first asked by
        self.office.ask(list(wanted.values()), tasks)

    def taste(self, weights: Weights, tasks: Sequence[Task]) -> Taste:
        """What a soup is worth: the mean over the categories of all tasks, each by its task's metric."""
        before = len(self.tasted)
        found = self.measure(weights, tasks)
        categories = of_categories(found)
        score = math.fsum(categories.values()) / len(categories)
        if len(self.tasted) > before:
            self.best = max(self.best, score)
            seconds = math.fsum(task.seconds for task in found.tasks)
            number = len(self.tasted)
            self.notify(Tried(number, max(self.most, number), score, self.best, False, self.live.made, seconds))
        return Taste(weights, score, categories)


def _used(weights: Weights, tasks: Sequence[Task]) -> tuple[dict[str, float], str]:
    """What a soup is really of, and what it and some tasks are known by."""
    used = {model: weight for model, weight in weights.items() if weight}
    return used, repr((sorted(used.items()), [task.hash for task in tasks]))


def of_categories(found: Evaluation) -> dict[str, float]:
    """The score of each category; of a task without categories, its own. More is better."""
    scores: dict[str, float] = {}
    for task in found.tasks:
        metric = task.metrics[0]
        values, weights = task.columns(metric.name)
        own = np.array([outcome.category for outcome in task.items])
        names = sorted(set(own.tolist()))
        for name in names:
            value = mean(values[own == name], weights[own == name], metric)
            label = f"{task.task}: {name or 'none'}" if len(names) > 1 else task.task
            scores[label] = value if metric.higher else -value
    return scores


def uniform(names: Sequence[str]) -> dict[str, float]:
    """Equal weights."""
    return dict.fromkeys(names, 1 / len(names))
