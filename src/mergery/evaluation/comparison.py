"""Comparing models on the same items: intervals, tests, what each alone solves, and what is noise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mergery.errors import RecipeError, TaskError, did_you_mean
from mergery.evaluation import statistics
from mergery.evaluation.findings import Comparison, Interval, Optimism, Overlap, Pair
from mergery.evaluation.results import Evaluation, TaskResult, link, mean, read_results
from mergery.evaluation.task import Metric


def compare(
    models: Sequence[Evaluation | str | Path], *, parents: Sequence[str], seed: int, resamples: int
) -> Comparison:
    """All that can be said of several models' results; see `mergery.api.compare`."""
    if resamples < 100:
        why = "intervals of fewer than 100 mean nothing"
        raise RecipeError(f"resamples is {resamples}", why=why, hint="leave it out for 10000")
    read = [model if isinstance(model, Evaluation) else read_results(Path(model)) for model in models]
    if len(read) < 2:
        raise TaskError("there is nothing to compare with", hint="give two models or more")
    read = _own_names(read)
    names = tuple(evaluation.model for evaluation in read)
    for parent in parents:
        if parent not in names:
            raise TaskError(f"the parent {parent!r} is none of the models", hint=did_you_mean(parent, names))
    if parents and not set(names) - set(parents):
        raise TaskError("all models are parents", hint="give the merged model as well")
    tables = [_Table(results, tuple(parents), seed, resamples) for results in _paired(read)]
    return Comparison(
        names,
        tuple(parents),
        tuple(itertools.chain.from_iterable(table.intervals() for table in tables)),
        tuple(itertools.chain.from_iterable(table.pairs() for table in tables)),
        tuple(itertools.chain.from_iterable(table.overlaps() for table in tables)),
        tuple(itertools.chain.from_iterable(table.optimism() for table in tables)),
    )


def _own_names(read: Sequence[Evaluation]) -> list[Evaluation]:
    """Names that tell all models apart: the same name of another content is given a piece of its hash."""
    names = [evaluation.model for evaluation in read]
    own = [
        replace(evaluation, model=f"{evaluation.model} {evaluation.fingerprint[:6]}")
        if names.count(evaluation.model) > 1
        else evaluation
        for evaluation in read
    ]
    names = [evaluation.model for evaluation in own]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise TaskError(f"{twice!r} is given twice", why="both have the same content", hint="give it once")
    return own


def _paired(read: Sequence[Evaluation]) -> list[dict[str, TaskResult]]:
    """For each task its results by model. Every model must have answered the same items."""
    tables = []
    for first in read[0].tasks:
        table = {}
        for evaluation in read:
            found = {result.task: result for result in evaluation.tasks}
            extra = set(found) - {result.task for result in read[0].tasks}
            if first.task not in found or extra:
                missing = first.task if first.task not in found else min(extra)
                without = evaluation.model if first.task not in found else read[0].model
                raise TaskError(
                    f"{without} has no results of {missing!r}", hint="evaluate all models on the same tasks"
                )
            result = found[first.task]
            if result.task_hash != first.task_hash or dict(result.settings) != dict(first.settings):
                what = "items" if result.task_hash != first.task_hash else "settings"
                raise TaskError(
                    f"{read[0].model} and {evaluation.model} were evaluated with different {what} on {first.task!r}",
                    hint="evaluate both again",
                )
            table[evaluation.model] = result
        tables.append(table)
    return tables


def _in_order(result: TaskResult) -> TaskResult:
    """The same result with its items by id: 1, 2, 10."""
    items = sorted(result.items, key=lambda outcome: (len(outcome.item), outcome.item))
    return replace(result, items=tuple(items))


class _Table:
    """All models on one task."""

    def __init__(self, results: dict[str, TaskResult], parents: tuple[str, ...], seed: int, resamples: int) -> None:
        self.seed, self.resamples = seed, resamples
        # Files hold items in the order in which they were answered, which another tokenizer changes.
        self.results = {name: _in_order(result) for name, result in results.items()}
        self.names = list(results)
        self.parents = parents
        self.first = self.results[self.names[0]]
        self.task = self.first.task
        self.metric: Metric = self.first.metrics[0]
        columns = [result.columns(self.metric.name) for result in self.results.values()]
        self.values = np.stack([values for values, _ in columns])
        self.weights = columns[0][1]
        self.items = self.values.shape[1]
        self.means = self._means(np.arange(self.items), "")
        self.binary = self.metric.link == "mean" and bool(np.isin(self.values, (0.0, 1.0)).all())

    def _means(self, items: np.ndarray, category: str) -> np.ndarray:
        means = statistics.resampled_means(
            self.values[:, items], self.weights[items], seed=self.seed, name=f"{self.task}\0{category}",
            resamples=self.resamples,
        )  # fmt: skip
        return link(means, self.metric)

    def value(self, model: int, items: np.ndarray | slice = slice(None)) -> float:
        return mean(self.values[model][items], self.weights[items], self.metric)

    def intervals(self) -> list[Interval]:
        """Each model's score, then each category's where there are several."""
        categories = list(dict.fromkeys(outcome.category for outcome in self.first.items))
        parts = {"": (np.arange(self.items), self.means)}
        if len(categories) > 1:
            own = np.array([outcome.category for outcome in self.first.items])
            for category in categories:
                items = np.flatnonzero(own == category)
                parts[category or "none"] = (items, self._means(items, category))
        return [
            Interval(
                name, self.task, part, self.metric.name, self.value(model, items), *statistics.interval(means[model]),
                len(items),
            )
            for part, (items, means) in parts.items()
            for model, name in enumerate(self.names)
        ]  # fmt: skip

    def pairs(self) -> list[Pair]:
        """Every candidate against every reference."""
        references = self.parents or (self.names[0],)
        chosen = [
            (self.names.index(candidate), self.names.index(reference))
            for candidate in self.names
            if candidate not in references
            for reference in references
        ]
        p_values = [self.p(a, b) for a, b in chosen]
        corrected = statistics.holm(p_values)
        return [
            self.pair(a, b, p, held, len(chosen)) for (a, b), p, held in zip(chosen, p_values, corrected, strict=True)
        ]

    def p(self, a: int, b: int) -> float:
        if self.binary:
            return statistics.mcnemar(self.values[a], self.values[b])
        differences = self.weights * (self.values[a] - self.values[b])
        name = f"{self.task}\0{self.names[a]}\0{self.names[b]}"
        return statistics.permutation(differences, seed=self.seed, name=name, resamples=self.resamples)

    def pair(self, a: int, b: int, p: float, corrected: float, family: int) -> Pair:
        scores = self.value(a), self.value(b)
        low, high = statistics.interval(self.means[a] - self.means[b])
        visible = statistics.smallest_visible(self.values[a] - self.values[b], self.weights) * self.slope(b)
        return Pair(
            self.task, self.metric.name, self.metric.higher, self.names[a], self.names[b], scores,
            scores[0] - scores[1], low, high, "McNemar" if self.binary else "permutation", p, corrected, family,
            self.items, visible,
        )  # fmt: skip

    def slope(self, model: int) -> float:
        """How much the metric changes where the mean under it changes by one, at one model's score."""
        if self.metric.link == "mean":
            return 1.0
        return self.value(model) * (1.0 if self.metric.link == "exp" else math.log(2))

    def overlaps(self) -> list[Overlap]:
        """For 0/1 scores: what each candidate gains and loses against all parents (without parents: all others)."""
        if not self.binary:
            return []
        solved = self.values == 1
        ids = [outcome.item for outcome in self.first.items]
        found = []
        for model, name in enumerate(self.names):
            if name in self.parents:
                continue
            parents = self.parents or tuple(other for other in self.names if other != name)
            rows = solved[[self.names.index(parent) for parent in parents]]
            gained, lost = solved[model] & ~rows.any(0), rows.all(0) & ~solved[model]
            found.append(
                Overlap(
                    self.task, name, parents, tuple(itertools.compress(ids, gained)),
                    tuple(itertools.compress(ids, lost)), int(rows.all(0).sum()), int(rows.any(0).sum()),
                    int((rows.any(0) & solved[model]).sum()),
                )
            )  # fmt: skip
        return found

    def optimism(self) -> list[Optimism]:
        """Of choosing among the candidates, where there are several."""
        rows = [model for model, name in enumerate(self.names) if name not in self.parents]
        if len(rows) < 2:
            return []
        sign = 1.0 if self.metric.higher else -1.0
        scores = sign * np.array([self.value(model) for model in rows])
        best = int(np.argmax(scores))
        if self.binary:
            equal = statistics.binomial_optimism(float(self.values[rows].mean()), self.items, len(rows))
        else:
            error = float(np.mean(self.means[rows].std(axis=1)))
            equal = statistics.normal_optimism(error, len(rows))
        shown = statistics.bootstrap_optimism(sign * self.means[rows], scores)
        return [
            Optimism(
                self.task, self.metric.name, len(rows), self.names[rows[best]], sign * float(scores[best]), self.items,
                equal, shown,
            )
        ]  # fmt: skip
