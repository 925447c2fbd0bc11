"""A search: candidates are tried one after another, the best few judged on other items, and the chosen one on yet others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mergery.errors import CheckpointError
from mergery.evaluation import split
from mergery.evaluation.comparison import compare
from mergery.evaluation.findings import Comparison
from mergery.evaluation.loading import check_transformers
from mergery.evaluation.models import open_subject
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.running import answer_all
from mergery.evaluation.splits import Splits
from mergery.evaluation.task import Task, digest
from mergery.exploration.candidates import Candidate, ranked
from mergery.exploration.estimating import Trust, ask_models, check_anchors
from mergery.exploration.folder import RECIPE, locked
from mergery.exploration.live import LiveModel
from mergery.exploration.options import SearchOptions
from mergery.exploration.pareto import draw, front, knee
from mergery.exploration.sampling.archiving import Archive, filled
from mergery.exploration.sampling.proposing import blended
from mergery.exploration.scoring import ask, make_objective
from mergery.exploration.study import Study, check_optuna
from mergery.exploration.trying import asking, try_candidates
from mergery.recipe import Merge, Recipe, Source
from mergery.recipe.document import write_yaml
from mergery.recipe.paths import placeless, rebased
from mergery.recipe.space import Space, read_space
from mergery.run.cluster import refuse_memory
from mergery.run.events import Found, Notify, ignore

FINALISTS, MOST = 3, 12  # of the best candidates, or of a front, besides the centre and the start
RECORD, PICTURE = "search.json", "front.png"


@dataclass(frozen=True)
class Finalist:
    """A candidate that was judged on the validation items."""

    name: str  # start, centre, or its place among the best
    values: Mapping[str, Any]
    score: float  # on the search items; of the centre, what they gave afterwards
    validation: float
    goals: Mapping[str, float] = field(default_factory=dict)  # on the validation items, where each task is a goal

    def plain(self) -> dict[str, Any]:
        own = {"name": self.name, "values": dict(self.values), "score": self.score, "validation": self.validation}
        return own | ({"goals": dict(self.goals)} if self.goals else {})


@dataclass(frozen=True)
class SearchResult:
    """What a search has found, and how good it is on items that no choice has seen."""

    folder: Path
    recipe: Path  # of the chosen candidate
    chosen: Finalist
    finalists: tuple[Finalist, ...]
    candidates: tuple[Candidate, ...]
    report: Comparison  # of the chosen one with the models that it is made of
    left_out: Mapping[str, str]  # models that could not be scored, and why
    trust: Trust | None = None  # in scores from anchors
    archives: tuple[Archive, ...] = ()  # one for each task, where quality and diversity were searched in turn

    def __repr__(self) -> str:
        told = (
            f"{len(self.candidates)} candidates, chosen {self.chosen.name}, {self.chosen.validation:.4f} on validation"
        )
        return f"<SearchResult: {told}>"

    def plain(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "recipe": str(self.recipe), "chosen": self.chosen.plain(),
            "finalists": [each.plain() for each in self.finalists],
            "candidates": [each.plain() for each in self.candidates],
            "report": self.report.plain(), "left_out": dict(self.left_out),
            **({} if self.trust is None else {"anchors": self.trust.plain()}),
            **({"archives": [each.plain() for each in self.archives]} if self.archives else {}),
        }  # fmt: skip


def search(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    tasks: Sequence[str | Path | Task],
    *,
    options: SearchOptions = SearchOptions(),
    evaluation: EvaluationOptions = EvaluationOptions(),
    tokenizer: Any = None,
    notify: Notify = ignore,
) -> SearchResult:
    """Find the open values of a recipe; see `mergery.api.search`. Raises MergeryError."""
    check_optuna()
    check_transformers("a search")
    space = read_space(recipe)
    splits = split(tasks, seed=options.seed)
    objective = make_objective(splits.search, evaluation, options.seed, pareto=options.pareto, anchors=options.anchors)
    if options.anchors:
        check_anchors(objective, options.anchors)
    out = Path(out)
    with locked(out, "search"):
        start = space.recipe({each.name: each.kind.ends[0] for each in space.dimensions})
        refuse_memory(start)  # what is found is a recipe, which names files
        live = LiveModel(start, objective.head, dtype=evaluation.dtype, tokenizer=tokenizer, room=options.hold)
        try:
            hold = live.hold(options.workers, notify)
            question = digest(
                [
                    placeless(space.document.data),  # which models they are, their contents say
                    live.sources,
                    [task.hash for task in splits.search],
                    options.plain(),
                    evaluation.plain(),
                ]
            )
            goals = len(objective.tasks) if options.pareto else 1
            study = Study(out, space, options, question, goals, objective.tasks)
            session = _Session(space, splits, study, live, evaluation, out, notify)
            models = study.kept("models", lambda: ask_models(live, start, objective)) if options.anchors else ()
            with asking(space, objective, live, options, notify, hold) as ask_all:
                estimator = try_candidates(study, ask_all, objective, notify, models)
            return session.finish(objective, start, estimator and estimator.trust)
        finally:
            live.close()


class _Session:
    """A search in its folder."""

    def __init__(
        self,
        space: Space,
        splits: Splits,
        study: Study,
        live: LiveModel,
        evaluation: EvaluationOptions,
        out: Path,
        notify: Notify,
    ) -> None:
        self.space, self.splits, self.study, self.live = space, splits, study, live
        self.evaluation, self.out, self.notify = evaluation, out, notify

    def finish(self, objective: Any, start: Recipe, trust: Trust | None) -> SearchResult:
        """Judge the finalists on the validation items, and the chosen one on those to report on."""
        finalists = sorted(self._judged(objective), key=lambda each: -each.validation)
        chosen = self._knee(finalists) if self.study.options.pareto else finalists[0]
        place = self.out / RECIPE
        data = rebased(self.space.data(chosen.values), self.space.folder, self.out)
        place.write_text(_head(chosen, self.study) + write_yaml(data), encoding="utf-8")
        report, left_out = self._report(chosen, start)
        candidates = tuple(self.study.candidates)
        kept = self._archives()
        result = SearchResult(self.out, place, chosen, tuple(finalists), candidates, report, left_out, trust, kept)
        record = {"mergery": 1, **result.plain()}
        (self.out / RECORD).write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
        scores = {each.name: {"search": each.score, "validation": each.validation} for each in finalists}
        self.notify(Found(place, chosen.name, scores))
        return result

    def _archives(self) -> tuple[Archive, ...]:
        """What has been filled, where quality and diversity were searched in turn."""
        if self.study.sampler != "cycle":
            return ()
        return filled(self.space, [task.name for task in self.study.tasks], self.study.candidates)

    def _judged(self, objective: Any) -> Iterator[Finalist]:
        """The start, the centre of the last candidates, and the best few, each set of values once."""
        options = self.study.options
        entries: list[tuple[str, Mapping[str, Any]]] = [("start", self.study.start())]
        if options.pareto:
            points = np.array([each.goals for each in self.study.candidates])
            best = sorted(front(points), key=lambda place: -self.study.candidates[place].score)[:MOST]
            entries += [(f"front {place}", self.study.candidates[each].values) for place, each in enumerate(best, 1)]
            entries += [("blend", blended(self.space, self.study.candidates))] if self.study.sampler == "cycle" else []
        else:
            centre = self.study.centre()
            entries += [("centre", centre)] if centre is not None else []
            places = enumerate(ranked(self.study.candidates, FINALISTS, estimated=bool(options.anchors)), 1)
            entries += [(f"best {place}", candidate.values) for place, candidate in places]
        known = {repr(dict(each.values)): each.score for each in self.study.candidates if not each.stopped}
        judge = make_objective(self.splits.validation, self.evaluation, options.seed, pareto=options.pareto)
        seen: set[str] = set()
        for name, values in entries:
            key = repr(dict(values))
            if key in seen:
                continue
            seen.add(key)
            subject = self.live.subject(self.space.recipe(values), name)
            score = known[key] if key in known else objective.score(ask(subject, objective, lambda _: True)[0])
            found = ask(subject, judge, lambda _: True)[0]
            own = zip((task.name for task in judge.tasks), judge.scores(found), strict=True) if options.pareto else ()
            yield Finalist(name, dict(values), score, judge.score(found), dict(own))

    def _knee(self, finalists: Sequence[Finalist]) -> Finalist:
        """The knee of the front on the validation items; the front is drawn."""
        names = list(finalists[0].goals)
        points = np.array([[each.goals[name] for name in names] for each in finalists])
        kept = front(points)
        chosen = kept[knee(points[kept])]
        draw(self.out / PICTURE, names, points, kept, chosen)
        return finalists[chosen]

    def _report(self, chosen: Finalist, start: Recipe) -> tuple[Comparison, dict[str, str]]:
        """The chosen candidate beside the models that it is made of, on items that no choice has seen."""
        subject = self.live.subject(self.space.recipe(chosen.values), "merge")
        tasks = self.splits.report(subject.fingerprint)
        results = self.out / "results"
        found = [answer_all(subject, tasks, self.evaluation, results)]
        self.live.let_go()  # one model at a time
        left_out: dict[str, str] = {}
        for name, source in start.models.items():
            if isinstance(source, Source):
                alone = Recipe({name: source}, Merge("passthrough", (name,)), folder=start.folder)
                try:
                    found.append(answer_all(open_subject(alone, name=name), tasks, self.evaluation, results))
                except CheckpointError as error:  # such as a base without a head
                    left_out[name] = f"{error.what}: {error.why}" if error.why else error.what
        if len(found) < 2:
            why, hint = (
                "; ".join(left_out.values()),
                "compare with models of yours by `mergery evaluate --split report`",
            )
            raise CheckpointError("none of the models that were merged can be scored alone", why=why, hint=hint)
        parents = [evaluation.model for evaluation in found[1:]]
        return compare(found, parents=parents, seed=self.study.options.seed, resamples=10_000), left_out


def _head(chosen: Finalist, study: Study) -> str:
    """What the recipe says of where it comes from, as a comment."""
    tried, sampler = len(study.candidates), study.sampler
    return (
        f"# Found by mergery search: {chosen.name} of {tried} candidates by {sampler}, seed {study.options.seed}.\n"
        f"# Score on the items to search with {chosen.score:.4f}, to validate on {chosen.validation:.4f}.\n"
    )
