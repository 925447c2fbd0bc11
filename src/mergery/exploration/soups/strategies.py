"""How the weights of a soup are chosen: greedily, or by category experts on an exact grid (SoCE, arXiv 2511.13254)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mergery.exploration.sampling.surrogate import quadratic, spread, terms
from mergery.exploration.soups.making import Kitchen, Taste, Weights, uniform
from mergery.exploration.soups.table import Choice, ScoreTable, choose_experts, grid, shapley

Score = Callable[[Weights], float]
SHAPLEY = 5  # experts at most, of which all coalitions are tasted


@dataclass(frozen=True)
class Decision:
    """One ingredient that was tried by the greedy soup."""

    model: str
    score: float  # of the soup with it
    kept: bool


@dataclass(frozen=True)
class Greedy:
    """A greedy soup: equal weights of what was kept."""

    weights: Weights
    score: float
    decisions: tuple[Decision, ...]

    def plain(self) -> dict[str, Any]:
        return {
            "weights": dict(self.weights), "score": self.score, "decisions": [vars(each) for each in self.decisions],
        }  # fmt: skip


def greedy(alone: Mapping[str, float], score: Score) -> Greedy:
    """The greedy soup (arXiv 2203.05482): models in the order of their own scores, each kept where the average gains by it.

    alone: what each model is worth by itself, on the items that `score` asks. A tie in the order goes by place; an ingredient
    must gain more than nothing. The soup is never worse on these items than the best model.
    """
    order = sorted(alone, key=lambda name: -alone[name])
    kept, best = [order[0]], alone[order[0]]
    decisions = [Decision(order[0], best, True)]
    for name in order[1:]:
        value = score(uniform([*kept, name]))
        decisions.append(Decision(name, value, value > best))
        if value > best:
            kept, best = [*kept, name], value
    return Greedy(uniform(kept), best, tuple(decisions))


@dataclass(frozen=True)
class SoCE:
    """A soup of category experts, and how it was found."""

    table: ScoreTable
    choice: Choice
    weights: Weights
    score: float  # on the items to search with; of a quick search, what the surrogate's choice gave
    tried: tuple[Taste, ...]
    shapley: Mapping[str, float]  # each expert's share in the score of equal weights; empty for many experts
    quick: bool

    def plain(self) -> dict[str, Any]:
        return {
            "table": {
                "models": self.table.models, "categories": self.table.categories, "scores": self.table.scores.tolist(),
            },
            "choice": self.choice.plain(), "weights": dict(self.weights), "score": self.score,
            "tried": [{"weights": dict(each.weights), "score": each.score} for each in self.tried],
            "shapley": dict(self.shapley), "quick": self.quick,
        }  # fmt: skip


def soce(kitchen: Kitchen, tasks: Sequence[Any], threshold: float, *, quick: bool = False) -> SoCE:
    """Experts by the correlations of categories, and the best of all their weights in tenths, equal ones among them.

    A quick one fits a quadratic function to some of the weights and tastes the best of the others by that: it is not the
    published method, and is marked so.
    """
    alone = {name: kitchen.taste({name: 1.0}, tasks) for name in kitchen.models}
    categories = tuple(next(iter(alone.values())).categories)
    rows = [[alone[name].categories[category] for category in categories] for name in alone]
    table = ScoreTable(tuple(alone), categories, np.array(rows, np.float64))
    choice = choose_experts(table, threshold)
    points = [dict(zip(choice.experts, each, strict=True)) for each in grid(len(choice.experts))]
    kitchen.most = len(kitchen.tasted) + len(points)
    if quick:
        tried = _by_surrogate(kitchen, tasks, points)
    else:
        kitchen.ahead(points, tasks)
        tried = [kitchen.taste(each, tasks) for each in points]
    best = max(tried, key=lambda each: each.score)
    shares: Mapping[str, float] = {}
    if 1 < len(choice.experts) <= SHAPLEY:

        def worth(coalition: frozenset[str]) -> float:
            names = [name for name in choice.experts if name in coalition]
            return kitchen.taste(uniform(names), tasks).score if names else 0.0

        some = [names for count in range(1, len(choice.experts)) for names in combinations(choice.experts, count)]
        kitchen.ahead([uniform(names) for names in some], tasks)
        shares = shapley(choice.experts, worth)
    return SoCE(table, choice, best.weights, best.score, tuple(tried), shares, quick)


def _by_surrogate(kitchen: Kitchen, tasks: Sequence[Any], points: Sequence[Weights]) -> list[Taste]:
    """Some weights, a quadratic function through them, and the best three by that which were not among them."""
    names = list(points[0])
    free = np.array([[each[name] for name in names[:-1]] for each in points], np.float64)
    enough = terms(len(names) - 1)  # one weight follows from the others
    if len(points) <= enough + 3:
        kitchen.ahead(points, tasks)
        return [kitchen.taste(each, tasks) for each in points]
    chosen = spread(free, enough)
    kitchen.ahead([points[place] for place in chosen], tasks)
    tried = {place: kitchen.taste(points[place], tasks) for place in chosen}
    columns = quadratic(free)
    fitted, *_ = np.linalg.lstsq(columns[chosen], np.array([tried[place].score for place in chosen]), rcond=None)
    promising = np.argsort(-(columns @ fitted), kind="stable")[:3].tolist()
    kitchen.ahead([points[place] for place in promising], tasks)
    for place in promising:
        if place not in tried:
            tried[place] = kitchen.taste(points[place], tasks)
    return list(tried.values())
