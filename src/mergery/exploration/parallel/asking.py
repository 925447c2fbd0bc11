"""Recipes whose models several workers ask at once. Each answer is kept in a folder: whoever wants it then reads it there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mergery.errors import MergeryError
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.running import answer_all
from mergery.evaluation.task import Task
from mergery.exploration.live import LiveModel
from mergery.exploration.parallel.places import devices_of
from mergery.exploration.parallel.processes import processes
from mergery.exploration.parallel.team import Team
from mergery.exploration.parallel.work import check_stamps
from mergery.recipe.reading import load_recipe
from mergery.run.events import Notify


@dataclass(frozen=True)
class Question:
    """A recipe as plain data, the name of its model, and what it is asked."""

    number: int
    recipe: Mapping[str, Any]
    name: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Told:
    """That a question's answers are in the folder, or that they cannot be had: whoever asks again learns why."""

    number: int
    seconds: float


@dataclass(frozen=True)
class Desk:
    """All that a worker must know to answer questions. recipe: all models that any of them names."""

    recipe: Mapping[str, Any]
    folder: Path  # from which the recipes' paths count
    results: Path
    live: Mapping[str, Any]  # how the model is opened: see `LiveModel`
    options: EvaluationOptions
    stamps: Mapping[str, Any]

    def open(self, device: str) -> Clerk:
        """Open the models in this process. Raises PlanError where they are not those that the driver sees."""
        live = LiveModel(load_recipe(self.recipe, folder=self.folder), **self.live)
        check_stamps(live, self.stamps)
        return Clerk(replace(self, options=replace(self.options, device=device)), live)


class Clerk:
    """One model in memory that follows from question to question."""

    def __init__(self, desk: Desk, live: LiveModel) -> None:
        self.desk, self.live = desk, live

    def answer(self, question: Question) -> Told:
        """Put the tasks to a recipe's model; the answers are kept in the folder."""
        started = time.perf_counter()
        try:
            subject = self.live.subject(load_recipe(question.recipe, folder=self.desk.folder), question.name)
            answer_all(subject, question.tasks, self.desk.options, self.desk.results)
        except MergeryError:  # such as a method that these models do not suit
            pass
        return Told(question.number, round(time.perf_counter() - started, 3))


@dataclass
class Office:
    """Whoever answers questions beforehand: several workers, or nobody.

    seconds: that a question took, by the recipe's model's name.
    """

    team: Team | None = None
    workers: int = 1
    hold: int = 0  # bytes of inputs that each keeps in memory
    asked: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def ask(self, questions: Sequence[tuple[Mapping[str, Any], str]], tasks: Sequence[Task]) -> None:
        """Have recipes' models answer tasks, several at once. Which are asked together changes no answer.

        questions: recipes as plain data, with the names of their models.
        """
        if self.team is None or len(questions) < 2:
            return
        jobs = [
            Question(self.asked + place, recipe, name, tuple(tasks)) for place, (recipe, name) in enumerate(questions)
        ]
        self.asked += len(jobs)
        for told in self.team.ask(jobs):
            self.seconds[jobs[told.number - jobs[0].number].name] = told.seconds


@contextmanager
def office(
    live: LiveModel,
    recipe: Mapping[str, Any],
    folder: Path,
    results: Path,
    options: EvaluationOptions,
    workers: int,
    notify: Notify,
) -> Iterator[Office]:
    """Workers that answer questions, ended with the block. With one it is this process, when it comes to the question."""
    hold = live.hold(workers, notify)
    if workers == 1:
        yield Office(hold=hold)
        return
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) // workers)
    opened = {
        "head": live.head, "dtype": live.dtype, "tokenizer": live.tokenizer, "sources": live.sources, "threads": threads,
        "room": hold,
    }  # fmt: skip
    desk = Desk(recipe, folder, results, opened, replace(options, threads=threads), live.stamps)
    with processes(desk, workers, devices_of((), options.device)) as crew:
        yield Office(Team(crew, notify), workers, hold)
