"""Candidates drawn, scored and kept, until there are enough or the time is over."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mergery.errors import DataError
from mergery.exploration.candidates import Candidate
from mergery.exploration.estimating import WHOLE, Estimator
from mergery.exploration.live import LiveModel
from mergery.exploration.options import SearchOptions
from mergery.exploration.parallel.cluster import cluster
from mergery.exploration.parallel.places import devices_of
from mergery.exploration.parallel.processes import processes
from mergery.exploration.parallel.team import Team
from mergery.exploration.parallel.work import Answer, Ask, Job, Setup, alone
from mergery.exploration.scoring import Found, Objective
from mergery.exploration.study import Study
from mergery.recipe.space import Space
from mergery.run.events import Noticed, Notify, Tried


def try_candidates(
    study: Study, ask: Ask, objective: Objective, notify: Notify, models: Sequence[Found] = ()
) -> Estimator | None:
    """Draw candidates, some at a time, score them, and keep what came of them in the study, in the order they were drawn.

    Whether one is given up depends on those that were scored before it was drawn, not on which of its own draw is done first.
    One whose weights or answers are not finite counts as the worst so far. Raises DataError where that is the first.

    models: the answers of each model by itself, where candidates are asked anchors; returns what estimated their scores.
    """
    options = study.options
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    estimator = _estimator(study, objective, models)
    while len(study.candidates) < study.most and (until is None or time.monotonic() < until):
        best = study.best_before
        drawn = study.draw()
        rival = best.items if best is not None and options.gives_up else None
        first = len(study.candidates)
        jobs = [
            Job(first + place, values, rival, bool(options.anchors) and first + place >= WHOLE)
            for place, (_, values) in enumerate(drawn)
        ]
        for job, answer, (trial, values) in zip(jobs, ask(jobs), drawn, strict=True):
            estimator = estimator or _estimator(study, objective, models)
            found = answer.found
            if answer.fault is not None:
                scores, found = _worst(study, answer.fault)
                notify(Noticed([f"candidate {job.number + 1} counts as the worst so far: {answer.fault.what}"]))
            elif job.anchors and estimator is not None:
                scores = [estimator.score(answer.found)]
            else:
                scores = _scores(answer, best, objective, options)
            stopped = answer.stopped or job.anchors
            made = study.tell(trial, values, scores, found, stopped=stopped)
            told = [made, study.best or made, *(study.candidates if options.anchors else ())]
            top = max(each.score for each in told)
            notify(Tried(made.number + 1, study.most, made.score, top, stopped, answer.made, answer.seconds))
    return estimator


def _estimator(study: Study, objective: Objective, models: Sequence[Found]) -> Estimator | None:
    """What scores from anchors, once enough candidates were asked all items."""
    if not study.options.anchors or len(study.candidates) < WHOLE:
        return None
    return Estimator(objective, study.candidates[:WHOLE], models)


def _scores(answer: Answer, best: Candidate | None, objective: Objective, options: SearchOptions) -> list[float]:
    if options.pareto:
        return objective.scores(answer.found)
    if answer.stopped and best is not None:
        return [objective.estimate(answer.found, best.items)]
    return [objective.score(answer.found)]


def _worst(study: Study, fault: DataError) -> tuple[list[float], Found]:
    """The least score of each goal among candidates that were asked all items, and what the worst of them gave."""
    whole = [each for each in study.candidates if not each.stopped]
    if not whole:
        raise fault
    goals = zip(*(each.goals or (each.score,) for each in whole), strict=True)
    return [min(goal) for goal in goals], dict(min(whole, key=lambda each: each.score).items)


@contextmanager
def asking(
    space: Space, objective: Objective, live: LiveModel, options: SearchOptions, notify: Notify, hold: int
) -> Iterator[Ask]:
    """Whoever scores candidates: the live model of this process, or several workers. Raises MergeryError.

    hold: bytes of inputs that each of several workers keeps in memory.
    """
    if options.workers == 1 and not options.ray:
        yield alone(space, objective, live)
        return
    threads = objective.options.threads or max(1, len(os.sched_getaffinity(0)) // options.workers)
    setup = Setup(space, objective, live.tokenizer, live.sources, live.stamps, threads, hold)
    if options.ray:
        with cluster(setup, options.workers, options.ray) as crew:
            yield Team(crew, notify).ask
    else:
        with processes(setup, options.workers, devices_of(options.devices, objective.options.device)) as crew:
            yield Team(crew, notify).ask
