"""`mergery auto`: cheap methods first, the best of them refined, and the best model alone always among them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from mergery.errors import CheckpointError, DataError, PlanError, RecipeError
from mergery.evaluation import split
from mergery.evaluation.comparison import compare
from mergery.evaluation.findings import Comparison
from mergery.evaluation.loading import check_transformers
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.results import Evaluation
from mergery.evaluation.running import answer_all
from mergery.evaluation.task import Task, digest
from mergery.exploration.automatic.contest import Clock, Entry, Verdict, judge, score_of
from mergery.exploration.automatic.options import AutoOptions
from mergery.exploration.folder import RECIPE, locked
from mergery.exploration.live import LiveModel
from mergery.exploration.options import SearchOptions
from mergery.exploration.parallel.asking import Office, office
from mergery.exploration.scoring import make_objective
from mergery.exploration.sources import named_sources
from mergery.exploration.study import Study, check_optuna
from mergery.exploration.trying import asking, try_candidates
from mergery.method import find
from mergery.recipe.document import write_yaml
from mergery.recipe.paths import placeless, rebased
from mergery.recipe.reading import load_recipe
from mergery.recipe.space import read_space
from mergery.report.interference import Interference, measure
from mergery.run.estimate import seconds
from mergery.run.events import Found, Notify, Tried, ignore

METHODS: tuple[Mapping[str, Any], ...] = (
    {"method": "linear"},
    {"method": "task_arithmetic"},
    {"method": "ties"},
    {"method": "breadcrumbs"},
    {"method": "pcb"},
    {"method": "dare_ties"},
    {"method": "svc"},
    {"method": "tsv_merge"},
    {"method": "iso_c"},
    {"method": "swudi_a"},
    {"method": "knots"},
)
"""What is tried, in this order: from cheap to dear, of every family that is best in some world (docs/which-method.md)."""
FINALISTS = 3  # merges at their defaults that are judged
SHARE = 0.5  # of the time that is left: no single merge may be expected to take more
TOGETHER = 4  # candidates drawn before any of them is scored, whatever the workers: at most a generation of CMA-ES
REFINED = 2  # merges whose weights are searched
RECORD = "auto.json"
LATE = "there was not the time"


@dataclass(frozen=True)
class AutoResult:
    """What was tried, and what is recommended."""

    recipe: Path
    verdict: Verdict
    tried: tuple[Entry, ...]
    skipped: Mapping[str, str]  # methods, and why
    interference: Interference | None
    report: Comparison | None  # of the recommended merge with the models, on items that no choice has seen

    def __repr__(self) -> str:
        return f"<AutoResult: {self.verdict.words}>"

    def plain(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "recipe": str(self.recipe), "verdict": self.verdict.words, "merge": self.verdict.merge,
            "judged": [each.plain() for each in self.verdict.judged],
            "tried": [vars(each) for each in self.tried], "skipped": dict(self.skipped),
            "interference": None if self.interference is None else self.interference.facts(),
            "report": None if self.report is None else self.report.plain(),
        }  # fmt: skip


def choose(
    base: Any,
    models: Sequence[Any] | Mapping[str, Any],
    out: Path,
    tasks: Sequence[str | Path | Task],
    options: AutoOptions,
    evaluation: EvaluationOptions,
    tokenizer: Any = None,
    notify: Notify = ignore,
) -> AutoResult:
    """Decide whether and how to merge; see `mergery.api.auto`. Raises MergeryError."""
    check_optuna()
    check_transformers("a choice by tasks")
    sources = sources_of(base, models)
    clock = Clock(60 * options.minutes, time.monotonic)
    splits = split(tasks, seed=options.seed)
    objective = make_objective(splits.search, evaluation, options.seed)
    with locked(out, "choice"):
        live = LiveModel(load_recipe(_whole(sources)), objective.head, dtype=evaluation.dtype, tokenizer=tokenizer)
        try:
            contest = _Contest(sources, live, splits, objective, evaluation, options, clock, out, notify)
            return contest.run()
        finally:
            live.close()


def sources_of(base: Any, models: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """The base and the models by name. Raises RecipeError where there is nothing to choose."""
    taken = ["base", *(str(merge["method"]) for merge in METHODS)]  # names of the table as well
    sources = {"base": str(base) if isinstance(base, Path) else base, **named_sources(models, taken)}
    if len(sources) < 3:
        hint = "mergery auto BASE MODEL MODEL --tasks FILE --out OUT"
        raise RecipeError("there is nothing to choose", why="it takes a base and two models or more", hint=hint)
    return sources


def _whole(sources: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of all models, which opens them."""
    return {"models": dict(sources), "merge": {"method": "task_arithmetic", "base": "base"}}


def recipe_of(sources: Mapping[str, Any], merge: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe of a merge of all models, with the base where the method has a use for it."""
    based = find(str(merge["method"])).base != "unused"
    named = {name: source for name, source in sources.items() if based or name != "base"}
    return {"models": named, "merge": {**merge, **({"base": "base"} if based else {})}}


class _Contest:
    """All that is tried in one folder."""

    def __init__(
        self,
        sources: Mapping[str, Any],
        live: LiveModel,
        splits: Any,
        objective: Any,
        evaluation: EvaluationOptions,
        options: AutoOptions,
        clock: Clock,
        out: Path,
        notify: Notify,
    ) -> None:
        self.sources, self.live, self.splits, self.objective = sources, live, splits, objective
        self.evaluation, self.options, self.clock, self.out, self.notify = evaluation, options, clock, out, notify
        self.names = [name for name in sources if name != "base"]
        self.skipped: dict[str, str] = {}
        self.best = float("-inf")
        self.count = 0
        self.whole = _whole(sources)
        self.office = Office()

    def run(self) -> AutoResult:
        """Models alone, methods at their defaults, the best of them refined; then the verdict."""
        interference = self.interference()
        results, workers = self.out / "results", self.options.workers
        with office(self.live, self.whole, Path(), results, self.evaluation, workers, self.notify) as self.office:
            self.office.ask([(self.by_itself(name), name) for name in self.names], self.splits.search)
            alone = [entry for name in self.names if (entry := self.alone(name)) is not None]
            merges = sorted(self.merges(), key=lambda entry: -entry.search) if alone else []
        if not alone:
            why = "; ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            raise CheckpointError("none of the models can be scored", why=why, hint="give tasks that they are made for")
        refined = list(self.refined(merges[:REFINED]))
        finalists = [*alone, *merges[:FINALISTS], *refined]
        verdict = judge(
            [(entry, self.measure(entry.recipe, self.splits.validation, entry.name)) for entry in finalists],
            self.options.seed,
        )
        recipe = self.write(verdict)
        report = self.report(verdict, alone)
        result = AutoResult(recipe, verdict, (*alone, *merges, *refined), self.skipped, interference, report)
        record = json.dumps({"mergery": 1, **result.plain()}, indent=1, default=str)
        (self.out / RECORD).write_text(record + "\n", encoding="utf-8")
        scores = {each.entry.name: {"search": each.entry.search, "validation": each.score} for each in verdict.judged}
        self.notify(Found(recipe, verdict.words, scores))
        return result

    def interference(self) -> Interference | None:
        """How the task vectors meet, where there are matrices to see it on."""
        data = recipe_of(self.sources, {"method": "iso_c"})
        try:
            return measure(self.live.plan(load_recipe(data)), 16)
        except PlanError as error:
            self.skipped["interference"] = error.what
            return None

    def measure(self, recipe: Mapping[str, Any], tasks: Sequence[Task], name: str) -> Evaluation:
        """What a recipe's model answers; what was asked before is read."""
        return answer_all(self.live.subject(load_recipe(recipe), name), tasks, self.evaluation, self.out / "results")

    def entry(self, name: str, recipe: Mapping[str, Any], *, merged: bool) -> Entry:
        """Score a recipe on the items to search with."""
        started = time.perf_counter()
        score = score_of(self.measure(recipe, self.splits.search, name))
        taken = self.office.seconds.pop(
            name, round(time.perf_counter() - started, 3)
        )  # where a worker has asked it before
        self.count, self.best = self.count + 1, max(self.best, score)
        most = len(self.names) + len(METHODS)
        self.notify(Tried(self.count, max(most, self.count), score, self.best, False, self.live.made, taken))
        return Entry(name, recipe, merged, score, taken)

    def by_itself(self, name: str) -> dict[str, Any]:
        """The recipe of a model alone."""
        return {"models": {name: self.sources[name]}, "merge": {"method": "passthrough", "models": [name]}}

    def alone(self, name: str) -> Entry | None:
        """A model by itself; None where it cannot be scored."""
        try:
            return self.entry(name, self.by_itself(name), merged=False)
        except (CheckpointError, DataError) as error:
            self.skipped[name] = error.what
            return None

    def merges(self) -> Iterator[Entry]:
        """Methods at their defaults, those that the time allows, as many at once as there are workers."""
        merges = iter([(str(merge["method"]), recipe_of(self.sources, merge)) for merge in METHODS])
        while batch := list(islice(filter(self.in_time, merges), self.options.workers)):
            self.office.ask([(data, name) for name, data in batch], self.splits.search)
            for name, data in batch:
                try:
                    yield self.entry(name, data, merged=True)
                except (PlanError, RecipeError, DataError) as error:
                    self.skipped[name] = error.what

    def in_time(self, merge: tuple[str, Mapping[str, Any]]) -> bool:
        """Whether the time allows a merge, and these models suit the method."""
        name, data = merge
        try:
            if seconds(self.live.plan(load_recipe(data))) <= SHARE * self.clock.left:
                return True
            self.skipped[name] = LATE
        except (PlanError, RecipeError) as error:
            self.skipped[name] = error.what
        return False

    def refined(self, best: Sequence[Entry]) -> Iterator[Entry]:
        """The best merges with weights of their own, searched for in the time that is left."""
        for number, entry in enumerate(best):
            left = self.clock.left / (len(best) - number)
            merge = _opened(entry.recipe["merge"])
            if merge is None or left < 2 * entry.seconds:
                continue
            space = read_space({**entry.recipe, "merge": merge})
            options = SearchOptions(
                "auto", 200, left / 60, self.options.seed, workers=self.options.workers, together=TOGETHER
            )
            folder = self.out / f"search-{entry.name}"
            folder.mkdir(exist_ok=True)
            question = digest(
                [placeless(space.document.data), self.live.sources, [task.hash for task in self.splits.search]]
            )
            study = Study(folder, space, options, question)
            with asking(space, self.objective, self.live, options, self.notify, self.office.hold) as ask:
                try_candidates(study, ask, self.objective, self.notify)
            if study.best is None:
                continue
            values = study.centre() or study.best.values
            tuned = self.entry(f"{entry.name}, weights searched", space.data(values), merged=True)
            yield replace(tuned, tried=len(study.candidates))

    def write(self, verdict: Verdict) -> Path:
        """The recipe that is recommended."""
        place = self.out / RECIPE
        told = "".join(f"# {line}\n" for line in ("Chosen by mergery auto.", verdict.words))
        text = write_yaml(rebased(verdict.chosen.entry.recipe, Path(), self.out))
        place.write_text(told + text, encoding="utf-8")
        return place

    def report(self, verdict: Verdict, alone: Sequence[Entry]) -> Comparison | None:
        """The recommended merge with the models, on items that no choice has seen."""
        if not verdict.merge:
            return None
        tasks = self.splits.report(verdict.chosen.entry.name)
        chosen = verdict.chosen.entry
        found = [self.measure(each.recipe, tasks, each.name) for each in (chosen, *alone)]
        return compare(found, parents=[each.name for each in alone], seed=self.options.seed, resamples=10_000)


def _opened(merge: Mapping[str, Any]) -> dict[str, Any] | None:
    """A merge whose weights are open: one for each model, or its scale; None where it has neither."""
    settings = {setting.name: setting for setting in find(str(merge["method"])).settings.values()}
    if "weight" in settings and settings["weight"].per_model:
        return {**merge, "weight": {"search": [0.0, 2.0], "per": "model"}}
    if "scale" in settings:
        return {**merge, "scale": {"search": [0.2, 2.0]}}
    return None
