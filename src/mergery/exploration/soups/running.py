"""A soup from the command line's point of view: models and tasks in, a recipe and a report out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergery.errors import RecipeError
from mergery.evaluation import split
from mergery.evaluation.comparison import compare
from mergery.evaluation.findings import Comparison
from mergery.evaluation.loading import check_transformers
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.task import Task
from mergery.exploration.folder import RECIPE, locked
from mergery.exploration.live import LiveModel
from mergery.exploration.parallel.asking import office
from mergery.exploration.scoring import make_objective
from mergery.exploration.soups.making import Kitchen, Weights, uniform
from mergery.exploration.soups.options import SoupOptions, Strategy
from mergery.exploration.soups.strategies import Greedy, SoCE, greedy, soce
from mergery.exploration.sources import named_sources
from mergery.recipe.document import write_yaml
from mergery.recipe.paths import rebased
from mergery.recipe.reading import load_recipe
from mergery.run.events import Found, Notify, ignore

RECORD = "soup.json"


@dataclass(frozen=True)
class SoupResult:
    """A soup, and how it compares with others on items that no choice has seen."""

    recipe: Path
    strategy: Strategy
    weights: Weights
    search: Mapping[str, float]  # of each soup and model, the mean over categories on the items to search with
    greedy: Greedy
    soce: SoCE | None
    report: Comparison  # of the soup, equal weights of all and the greedy soup, with the models

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {weight:.3g}" for name, weight in self.weights.items())
        return f"<SoupResult: {self.strategy} of {parts}>"

    def plain(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "recipe": str(self.recipe), "strategy": self.strategy, "weights": dict(self.weights),
            "search": dict(self.search), "greedy": self.greedy.plain(),
            "soce": None if self.soce is None else self.soce.plain(), "report": self.report.plain(),
        }  # fmt: skip


def make_soup(
    models: Sequence[Any] | Mapping[str, Any],
    out: Path,
    tasks: Sequence[str | Path | Task],
    options: SoupOptions,
    evaluation: EvaluationOptions,
    tokenizer: Any = None,
    notify: Notify = ignore,
) -> SoupResult:
    """Choose the weights of a soup; see `mergery.api.soup`. Raises MergeryError."""
    check_transformers("a soup")
    named = named_sources(models, ("uniform", "greedy", "soce", "uniform of experts"))  # what soups are called
    if len(named) < 2:
        raise RecipeError(
            "a soup is of two models or more", hint="mergery soup greedy MODEL MODEL... --tasks FILE --out OUT"
        )
    splits = split(tasks, seed=options.seed)
    head = make_objective(splits.search, evaluation, options.seed).head
    whole = {"models": dict(named), "merge": {"method": "linear", "weight": uniform(list(named))}}
    with locked(out, f"{options.strategy} soup"):
        live = LiveModel(load_recipe(whole), head, dtype=evaluation.dtype, tokenizer=tokenizer)
        try:
            results = out / "results"
            with office(live, whole, Path(), results, evaluation, options.workers, notify) as workers:
                kitchen = Kitchen(named, live, evaluation, results, Path(), notify, office=workers)
                return _cook(kitchen, splits, out, options)
        finally:
            live.close()


def _cook(kitchen: Kitchen, splits: Any, out: Path, options: SoupOptions) -> SoupResult:
    tasks, names = splits.search, list(kitchen.models)
    kitchen.most = 2 * len(names)
    kitchen.ahead([{name: 1.0} for name in names], tasks)
    alone = {name: kitchen.taste({name: 1.0}, tasks).score for name in names}
    grown = greedy(alone, lambda weights: kitchen.taste(weights, tasks).score)
    experts = soce(kitchen, tasks, options.threshold, quick=options.quick) if options.strategy == "soce" else None
    soups: dict[str, Weights] = {"uniform": uniform(names), "greedy": grown.weights}
    if experts is not None:
        soups |= {"uniform of experts": uniform(experts.choice.experts), "soce": experts.weights}
    weights = soups[options.strategy]
    recipe = out / RECIPE
    told = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
    head = f"# A soup by mergery soup {options.strategy}: {told}.\n"
    recipe.write_text(head + write_yaml(rebased(kitchen.data(weights), kitchen.folder, out)), encoding="utf-8")
    kitchen.ahead(list(soups.values()), tasks)
    scores = {name: kitchen.taste(each, tasks).score for name, each in soups.items()} | alone
    report = _compare(kitchen, splits, soups, options)
    result = SoupResult(recipe, options.strategy, weights, scores, grown, experts, report)
    record = json.dumps({"mergery": 1, **result.plain()}, indent=1, default=str)
    (out / RECORD).write_text(record + "\n", encoding="utf-8")
    kitchen.notify(
        Found(recipe, f"{options.strategy} of {told}", {name: {"search": each} for name, each in scores.items()})
    )
    return result


def _compare(kitchen: Kitchen, splits: Any, soups: Mapping[str, Weights], options: SoupOptions) -> Comparison:
    """All soups and models on the items to report on. Which soup is made does not depend on it."""
    tasks = splits.report(options.strategy)
    found, seen = [], set[str]()
    entries = {options.strategy: soups[options.strategy], **soups} | {name: {name: 1.0} for name in kitchen.models}
    kitchen.ahead(list(entries.values()), tasks, list(entries))
    for name, weights in entries.items():
        evaluation = kitchen.measure(weights, tasks, name)
        if evaluation.fingerprint not in seen:
            seen.add(evaluation.fingerprint)
            found.append(evaluation)
    parents = [evaluation.model for evaluation in found if evaluation.model in kitchen.models]
    if len(parents) == len(found):  # every soup is a model alone
        parents = []
    return compare(found, parents=parents, seed=options.seed, resamples=10_000)
