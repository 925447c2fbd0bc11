"""A table of scores, models by categories, and the experts that it names (SoCE, arXiv 2511.13254)."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from mergery.errors import TaskError, Where
from mergery.exploration.soups.options import WEAK

MOST_EXPERTS = 10  # of which tenths can be dealt with at least one each


@dataclass(frozen=True)
class ScoreTable:
    """Scores of models in categories; more is better.

    scores: (models, categories) float64
    """

    models: tuple[str, ...]
    categories: tuple[str, ...]
    scores: np.ndarray


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation of two categories over the models, with a 95 % interval by Fisher's transform."""

    one: str
    other: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """The experts that a table names, and why."""

    experts: tuple[str, ...]  # in the order of the table
    of: Mapping[str, str]  # the expert of each weakly correlated category
    correlations: tuple[Correlation, ...]
    threshold: float
    clusters: tuple[tuple[str, ...], ...]  # of categories that go together
    warnings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        return {
            "experts": list(self.experts), "of": dict(self.of), "threshold": self.threshold,
            "correlations": [vars(each) for each in self.correlations],
            "clusters": [list(each) for each in self.clusters], "warnings": list(self.warnings),
        }  # fmt: skip


def read_table(path: Path) -> ScoreTable:
    """A CSV file: a line of categories, then a line for each model, its name first. Raises TaskError with the place."""
    shape = "the first line: model,math,code; then one for each model: xlam,78.5,54.2"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [
                (number, row) for number, row in enumerate(csv.reader(file), 1) if any(cell.strip() for cell in row)
            ]
    except OSError as error:
        raise TaskError(
            "cannot read the table", where=Where(str(path)), why=str(error.strerror), hint="check the path"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TaskError("this is no CSV file", where=Where(str(path)), why=str(error), hint=shape) from None
    if len(rows) < 3 or len(rows[0][1]) < 2:
        why = "it needs two models and a category at least"
        raise TaskError("the table is too small", where=Where(str(path)), why=why, hint=shape)
    categories = [cell.strip() for cell in rows[0][1][1:]]
    names, scores = [], []
    for number, row in rows[1:]:
        if len(row) != len(categories) + 1:
            why = f"it has {len(row) - 1} scores, and there are {len(categories)} categories"
            raise TaskError("a line of another length", where=Where(str(path), number, 1), why=why, hint=shape)
        names.append(row[0].strip())
        values = []
        for column, cell in enumerate(row[1:], 2):
            try:
                value = float(cell)
            except ValueError:
                value = math.nan
            if not math.isfinite(value):
                raise TaskError(
                    f"{cell!r} is no score", where=Where(str(path), number, column), hint="a number such as 78.5"
                )
            values.append(value)
        scores.append(values)
    for words, what in ((names, "model"), (categories, "category")):
        twice = next((word for word in words if words.count(word) > 1), None)
        if twice is not None:
            raise TaskError(f"the {what} {twice!r} stands twice", where=Where(str(path)), hint="name each once")
    return ScoreTable(tuple(names), tuple(categories), np.array(scores, np.float64))


def choose_experts(table: ScoreTable, threshold: float = WEAK) -> Choice:
    """The best model of each category that goes its own way: that is weakly correlated with another one.

    Category k is taken where a category l has |r_kl| below the threshold. Where none is, all go together, and the expert is
    the best model on average. Raises TaskError for more experts than tenths.
    """
    correlations = _correlations(table)
    weak = {name for each in correlations if abs(each.value) < threshold for name in (each.one, each.other)}
    of = {
        name: table.models[int(np.argmax(table.scores[:, place]))]
        for place, name in enumerate(table.categories)
        if name in weak
    }
    experts = tuple(model for model in table.models if model in of.values())
    warnings = list(_doubts(table, correlations, threshold))
    if not experts:
        best = table.models[int(np.argmax(table.scores.mean(axis=1)))]
        experts = (best,)
        warnings.append(
            f"no two categories are correlated by less than {threshold:g}: {best} is best on average, alone"
        )
    if len(experts) > MOST_EXPERTS:
        why = f"weights are tenths, and {len(experts)} models cannot each have one"
        raise TaskError("too many experts", why=why, hint=f"a lower --threshold than {threshold:g}")
    return Choice(experts, of, correlations, threshold, clusters(table, threshold), tuple(warnings))


def _correlations(table: ScoreTable) -> tuple[Correlation, ...]:
    centred = table.scores - table.scores.mean(axis=0)
    norms = np.linalg.norm(centred, axis=0)
    found = []
    for a, b in itertools.combinations(range(len(table.categories)), 2):
        product = norms[a] * norms[b]
        value = float(np.clip(centred[:, a] @ centred[:, b] / product, -1, 1)) if product > 0 else 0.0
        found.append(
            Correlation(table.categories[a], table.categories[b], value, *fisher_interval(value, len(table.models)))
        )
    return tuple(found)


def fisher_interval(value: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a correlation of `count` pairs (Fisher 1921); everything where there are three pairs or fewer."""
    if count <= 3:
        return -1.0, 1.0
    spread = NormalDist().inv_cdf((1 + level) / 2) / math.sqrt(count - 3)
    place = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    return math.tanh(place - spread), math.tanh(place + spread)


def _doubts(table: ScoreTable, correlations: Sequence[Correlation], threshold: float) -> Iterator[str]:
    sure = [each for each in correlations if each.low > threshold or each.high < -threshold]
    weak = [each for each in correlations if max(abs(each.low), abs(each.high)) < threshold]
    if correlations and not sure and not weak:
        yield (
            f"of {len(table.models)} models no correlation is certain to lie on either side of {threshold:g}: "
            "which categories go apart is a guess"
        )
    for name, column in zip(table.categories, table.scores.T, strict=True):
        if np.ptp(column) == 0:
            yield f"all models score the same in {name}: it tells nothing"


def clusters(table: ScoreTable, threshold: float) -> tuple[tuple[str, ...], ...]:
    """Categories that go together: joined by the average of 1 - |r|, as long as that is at most 1 - `threshold`."""
    apart = {frozenset((each.one, each.other)): 1 - abs(each.value) for each in _correlations(table)}
    groups = [(name,) for name in table.categories]

    def distance(one: tuple[str, ...], other: tuple[str, ...]) -> float:
        return float(np.mean([apart[frozenset(pair)] for pair in itertools.product(one, other)]))

    while len(groups) > 1:
        one, other = min(itertools.combinations(groups, 2), key=lambda pair: distance(*pair))
        if distance(one, other) > 1 - threshold:
            break
        joined = tuple(name for name in table.categories if name in one + other)
        groups = [group for group in groups if group not in (one, other)]
        groups.append(joined)
    return tuple(sorted(groups, key=lambda group: table.categories.index(group[0])))


def compositions(parts: int, tenths: int = 10) -> Iterator[tuple[int, ...]]:
    """All ways to deal so many tenths to models, one at least to each, in order: 9, 36, 84, 126 for two to five models."""
    for cuts in itertools.combinations(range(1, tenths), parts - 1):
        yield tuple(high - low for low, high in itertools.pairwise((0, *cuts, tenths)))


def grid(parts: int) -> list[tuple[float, ...]]:
    """The weights that SoCE tries: every composition of tenths, and equal weights, wherever these are no tenths."""
    if parts == 1:
        return [(1.0,)]
    found = [tuple(tenth / 10 for tenth in each) for each in compositions(parts)]
    uniform = (1 / parts,) * parts
    return found if uniform in found else [*found, uniform]


def shapley(members: Sequence[str], value: Callable[[frozenset[str]], float]) -> dict[str, float]:
    """Each member's share in what all reach together: its mean gain over all orders in which they could join.

    `value` is asked for every coalition, the empty one included: 2^n of them.
    """
    worth = {
        frozenset(each): value(frozenset(each))
        for size in range(len(members) + 1)
        for each in itertools.combinations(members, size)
    }
    shares = {}
    for member in members:
        rest = [other for other in members if other != member]
        shares[member] = math.fsum(
            (worth[frozenset((*each, member))] - worth[frozenset(each)]) / (len(members) * math.comb(len(rest), size))
            for size in range(len(rest) + 1)
            for each in itertools.combinations(rest, size)
        )
    return shares
