"""Candidates tried one after another, until there are enough or the time is over."""

from __future__ import annotations

import time
from functools import partial

from mergery.exploration.live import LiveModel
from mergery.exploration.scoring import Found, Objective, ask
from mergery.exploration.study import Candidate, Study
from mergery.run.events import Notify, Tried


def try_candidates(study: Study, live: LiveModel, objective: Objective, notify: Notify) -> None:
    """Draw candidates, score them, and keep what came of them in the study."""
    options = study.options
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    while len(study.candidates) < study.most and (until is None or time.monotonic() < until):
        started = time.perf_counter()
        trial, values = study.ask()
        best = study.best
        subject = live.subject(study.space.recipe(values), f"candidate {len(study.candidates) + 1}")

        rival = best if options.early and not options.pareto else None
        found, stopped = ask(subject, objective, partial(_hopeful, objective, rival))
        score = objective.estimate(found, best.items) if stopped and best is not None else objective.score(found)
        made = study.tell(trial, values, objective.scores(found) if options.pareto else [score], found, stopped=stopped)
        assert study.best is not None
        seconds = round(time.perf_counter() - started, 3)
        notify(Tried(made.number + 1, study.most, score, study.best.score, stopped, live.made, seconds))


def _hopeful(objective: Objective, rival: Candidate | None, found: Found) -> bool:
    """Whether a candidate may still be better than the best one, by what it gave so far."""
    return rival is None or not objective.behind(found, rival.items)
