"""The search for a path: from the first model itself, by single changes or by CMA-ES, each path scored in memory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import numpy as np

from mergery.errors import PlanError, RecipeError, Where
from mergery.evaluation import split
from mergery.evaluation.comparison import compare
from mergery.evaluation.findings import Comparison
from mergery.evaluation.loading import check_transformers
from mergery.evaluation.models import open_subject
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.running import answer_all
from mergery.evaluation.task import Task, digest
from mergery.exploration.flow.options import FlowOptions
from mergery.exploration.flow.path import Hop, Path, Slots, neighbours, straight
from mergery.exploration.flow.running import FlowModel, logits_of
from mergery.exploration.folder import RECIPE, locked
from mergery.exploration.scoring import Objective, ask, make_objective
from mergery.exploration.sources import named_sources
from mergery.exploration.study import check_optuna
from mergery.planning.plan import make_plan
from mergery.recipe import Merge, Recipe, Source
from mergery.recipe.document import write_yaml
from mergery.recipe.paths import rebased
from mergery.recipe.reading import load_recipe
from mergery.run.events import Found, Notify, Tried, ignore

SPREAD = 0.5  # of CMA-ES; slots that are off begin two spreads below the threshold
RECORD, JOURNAL = "flow.json", "paths.jsonl"
NEAR = 1e-2  # of the logits' standard deviation, by which the saved model may differ from the path: norms' epsilons


@dataclass(frozen=True)
class Tour:
    """A path that was tried."""

    path: Path
    score: float
    stopped: bool

    def plain(self) -> dict[str, Any]:
        return {"path": self.path.plain, "score": self.score, "stopped": self.stopped}


@dataclass(frozen=True)
class FlowResult:
    """The path that was found, and what it is worth on items that no choice has seen."""

    recipe: FilePath
    path: Path
    score: float  # on the items to search with
    start: float  # of the first model itself
    tours: tuple[Tour, ...]
    difference: float  # of the saved model's logits from the path's, over their standard deviation
    report: Comparison

    def __repr__(self) -> str:
        return f"<FlowResult: {len(self.path.hops)} layers, {self.score:.4f} against {self.start:.4f}>"

    def plain(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "recipe": str(self.recipe), "path": self.path.plain, "score": self.score, "start": self.start,
            "difference": self.difference, "tours": [tour.plain() for tour in self.tours], "report": self.report.plain(),
        }  # fmt: skip


def find_path(
    models: Sequence[Any] | Mapping[str, Any],
    out: FilePath,
    tasks: Sequence[str | FilePath | Task],
    options: FlowOptions,
    evaluation: EvaluationOptions,
    tokenizer: Any = None,
    notify: Notify = ignore,
) -> FlowResult:
    """Search for a path through the layers of models; see `mergery.api.flow`. Raises MergeryError."""
    if options.sampler == "cma":
        check_optuna()
    check_transformers("a search for paths")
    sources = named_sources(models)
    splits = split(tasks, seed=options.seed)
    objective = make_objective(splits.search, evaluation, options.seed)
    depths = _check(sources)
    alone = {
        name: open_subject(
            Recipe({name: Source(source)}, Merge("passthrough", (name,))), tokenizer=tokenizer, name=name
        )
        for name, source in sources.items()
    }
    with locked(out, "search for a path"):
        model = FlowModel(alone, objective.head, evaluation.dtype)
        if model.depths != depths:
            raise PlanError(
                f"the models have {model.depths} layers in memory",
                why=f"their files have {depths}",
                hint="check the configs",
            )
        question = digest([model.marks, [task.hash for task in splits.search], options.plain(), evaluation.plain()])
        search = _Search(
            model, Slots(depths, options.repeats), objective, options, _Journal(out / JOURNAL, question), notify
        )
        best = search.run()
        reference = _texts(splits.search)
        told = logits_of(model.follow(best.path), reference)
        del model, search.model
        data = best.path.recipe(sources)
        saved = open_subject(load_recipe(data), tokenizer=tokenizer, name="path")
        difference = float(
            (logits_of(saved.load(objective.head, evaluation.dtype), reference) - told).abs().max() / told.std()
        )
        if difference > NEAR:
            why = f"its logits differ by {difference:.2g} of their spread: its layers do not add the same whatever the scale"
            raise PlanError(
                "no plain model computes what this path does", why=why, hint="--sampler greedy, which has no scales"
            )
        recipe = out / RECIPE
        head = (
            f"# A path of {len(best.path.hops)} layers by mergery flow: {best.score:.4f} on the items to search with.\n"
        )
        recipe.write_text(head + write_yaml(rebased(data, FilePath(), out)), encoding="utf-8")
        tasks_left = splits.report("path")
        found = [answer_all(each, tasks_left, evaluation, out / "results") for each in (saved, *alone.values())]
        report = compare(found, parents=list(alone), seed=options.seed, resamples=10_000)
        result = FlowResult(
            recipe, best.path, best.score, search.tours[0].score, tuple(search.tours), difference, report
        )
        record = json.dumps({"mergery": 1, **result.plain()}, indent=1, default=str)
        (out / RECORD).write_text(record + "\n", encoding="utf-8")
        what = f"{len(best.path.hops)} layers, {best.score:.4f} against {search.tours[0].score:.4f} of {best.path.ends}"
        notify(Found(recipe, what, {"path": {"search": best.score}}))
        return result


class _Search:
    """Paths, tried one after another; what the journal holds is not tried again."""

    def __init__(
        self,
        model: FlowModel,
        slots: Slots,
        objective: Objective,
        options: FlowOptions,
        journal: _Journal,
        notify: Notify,
    ) -> None:
        self.model, self.slots, self.objective, self.options = model, slots, objective, options
        self.journal, self.notify = journal, notify
        self.tours: list[Tour] = []
        self.items: dict[int, Mapping[str, list[float]]] = {}
        self.most = int(options.stretch * slots.depths[slots.ends])

    def run(self) -> Tour:
        """The best path that was asked all items."""
        self.score(straight(self.slots.ends, self.slots.depths[self.slots.ends]))
        moves = self.greedy() if self.options.sampler == "greedy" else self.cma()
        for _ in moves:
            if len(self.tours) >= self.options.trials:
                break
        return self.best

    @property
    def best(self) -> Tour:
        return max((tour for tour in self.tours if not tour.stopped), key=lambda tour: tour.score)

    def score(self, path: Path) -> float:
        """What a path is worth; one that is too long is worth less than any, and is not run."""
        number, started = len(self.tours), time.perf_counter()
        known = self.journal.get(number)
        place = max(
            range(number),
            key=lambda each: self.tours[each].score if not self.tours[each].stopped else -np.inf,
            default=None,
        )
        if known is not None:
            score, stopped, items = known
        else:
            best = self.items[place] if place is not None else None
            subject = self.model.subject(path, f"path {number + 1}")
            items, stopped = ask(
                subject, self.objective, lambda found: best is None or not self.objective.behind(found, best)
            )
            score = (
                self.objective.estimate(items, best) if stopped and best is not None else self.objective.score(items)
            )
            self.journal.add(score, stopped, items)
        self.items[number] = items
        self.tours.append(Tour(path, score, stopped))
        seconds = round(time.perf_counter() - started, 3)
        self.notify(Tried(number + 1, self.options.trials, score, self.best.score, stopped, 0, seconds))
        return score

    def greedy(self) -> Iterator[float]:
        """One change of one layer at a time, in an order that the seed decides; what helps is kept, until nothing does."""
        rng = np.random.default_rng([self.options.seed, 1])
        best, tried = self.tours[0], {self.tours[0].path}
        while True:
            near = [
                each for each in neighbours(best.path, self.slots.depths, self.options.repeats) if each not in tried
            ]
            near = [each for each in near if len(each.hops) <= self.most]
            if not near:
                return
            path = near[int(rng.integers(len(near)))]
            tried.add(path)
            yield self.score(path)
            tour = self.tours[-1]
            if tour.score > best.score and not tour.stopped:
                best = tour

    def cma(self) -> Iterator[float]:
        """CMA-ES over a number for each slot, passed where it is above 0, and the logarithm of its scale.

        The slots of the first model begin two spreads above the threshold and the others as much below, so that first paths are
        near the model itself.
        """
        from cmaes import CMA, SepCMA

        start = self.slots.start()
        count = len(start)
        mean = np.concatenate([np.where(start, 2 * SPREAD, -2 * SPREAD), np.zeros(count)])
        kind = CMA if 2 * count <= 200 else SepCMA
        sampler = kind(mean=mean, sigma=SPREAD, seed=self.options.seed)
        while True:
            solutions = []
            for _ in range(sampler.population_size):
                genome = sampler.ask()
                passed = (genome[:count] > 0).tolist()
                scales = np.exp(0.2 * genome[count:]).tolist()
                path = self.slots.path(passed, scales)
                if len(path.hops) > self.most:
                    solutions.append((genome, float(len(path.hops) - self.most) * 1e3))
                    continue
                score = self.score(path)
                solutions.append((genome, -score))
                yield score
            sampler.tell(solutions)


class _Journal:
    """What each path was worth, in a file as it comes: a search that was killed goes on."""

    def __init__(self, file: FilePath, question: str) -> None:
        """Opens the file, or begins it. Raises RecipeError where it is of another question."""
        self.file = file
        data = file.read_bytes() if file.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]  # a torn last line never happened
        rows = self._parse(whole)
        if rows and rows[0] != {"question": question}:
            why, hint = "its models, tasks or options were others", "name another folder, or remove this one"
            raise RecipeError("this folder holds another search", where=Where(str(file.parent)), why=why, hint=hint)
        self.known = [(row["score"], row["stopped"], row["items"]) for row in rows[1:]]
        if len(whole) < len(data):
            os.truncate(file, len(whole))
        if not rows:
            self._append({"question": question})

    def _parse(self, data: bytes) -> list[dict[str, Any]]:
        """The file's lines. Raises RecipeError for one that is damaged."""
        rows: list[dict[str, Any]] = []
        for number, line in enumerate(data.splitlines(), start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict) or (number > 1 and not row.keys() >= {"score", "stopped", "items"}):
                hint = "remove it and what stands behind it, or begin in another folder"
                raise RecipeError("this line of the search is damaged", where=Where(str(self.file), number), hint=hint)
            rows.append(row)
        return rows

    def get(self, number: int) -> tuple[float, bool, dict[str, list[float]]] | None:
        """What is known of a path."""
        return self.known[number] if number < len(self.known) else None

    def add(self, score: float, stopped: bool, items: Mapping[str, list[float]]) -> None:
        """Keep what came of the next path."""
        self.known.append((score, stopped, dict(items)))
        self._append({"score": score, "stopped": stopped, "items": items})

    def _append(self, row: Mapping[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _check(sources: Mapping[str, Any]) -> dict[str, int]:
    """The layers of each model, once it is known that they can follow each other. Raises MergeryError."""
    if len(sources) < 1:
        raise RecipeError("there is no model", hint="mergery flow MODEL OTHER --tasks FILE --out OUT")
    depths: dict[str, int] = {}
    for name, source in sources.items():
        plan = make_plan({"models": {name: source}, "merge": {"method": "passthrough", "models": [name]}})
        depths[name] = plan.view.architecture.depth
        plan.close()
        if depths[name] < 3:
            why, hint = f"it has {depths[name]} layers, of which the first and the last stay", "a deeper model"
            raise PlanError(f"there is no way through {name}", why=why, hint=hint)
    ends = next(iter(sources))
    hops = [Hop(name, layer) for name, depth in depths.items() for layer in range(depth)]
    whole = Path(ends, (Hop(ends, 0), *hops, Hop(ends, depths[ends] - 1)))
    make_plan(whole.recipe(sources)).close()
    return depths


def _texts(tasks: Sequence[Task]) -> list[str]:
    """A few texts of the tasks, to compare logits on."""
    fields = [item.fields for task in tasks for item in task.items[:4]]
    words = [str(each.get("text") or each.get("prompt") or each.get("question")) for each in fields]
    return words[:8]
