"""What a worker does: it has a model in memory, and puts the items to one candidate after another."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from mergery.errors import DataError, PlanError
from mergery.exploration.live import LiveModel
from mergery.exploration.scoring import Found, Objective, ask
from mergery.recipe.space import Space


@dataclass(frozen=True)
class Job:
    """A candidate to score.

    rival: what the best one of those before gave, item by item; None where none may be given up. anchors: ask these alone.
    """

    number: int
    values: Mapping[str, Any]
    rival: Mapping[str, Sequence[float]] | None
    anchors: bool = False


@dataclass(frozen=True)
class Answer:
    """What the items gave of a candidate, or the first of them where it was given up.

    fault: why there is nothing, of a candidate whose weights or answers are not finite.
    """

    number: int
    found: Found
    stopped: bool
    made: int  # tensors
    seconds: float
    fault: DataError | None = None


Ask = Callable[[Sequence[Job]], Iterator[Answer]]
"""Scores candidates, and gives the answers in their order."""


class Opening(Protocol):
    """All that a worker must know, as it is sent to it."""

    def open(self, device: str) -> Any:
        """Whatever gives the `answer` to a job."""
        ...


@dataclass(frozen=True)
class Setup:
    """All that a worker must know. sources and stamps: of the models, as the process that draws candidates sees them."""

    space: Space
    objective: Objective
    tokenizer: Any
    sources: str
    stamps: Mapping[str, Any]
    threads: int = 0  # of each worker
    hold: int = 0  # bytes of inputs that each keeps in memory

    def open(self, device: str) -> Worker:
        """Open the models in this process. Raises PlanError where they are not those that the driver sees."""
        options = replace(self.objective.options, device=device, threads=self.threads)
        start = self.space.recipe({each.name: each.kind.ends[0] for each in self.space.dimensions})
        live = LiveModel(
            start,
            self.objective.head,
            dtype=options.dtype,
            tokenizer=self.tokenizer,
            sources=self.sources,
            threads=self.threads,
            room=self.hold,
        )
        check_stamps(live, self.stamps)
        return Worker(self.space, replace(self.objective, options=options), live)


class Worker:
    """One model in memory that follows from candidate to candidate."""

    def __init__(self, space: Space, objective: Objective, live: LiveModel) -> None:
        self.space, self.objective, self.live = space, objective, live

    def answer(self, job: Job) -> Answer:
        """Score a candidate. Raises MergeryError."""
        started = time.perf_counter()
        subject = self.live.subject(self.space.recipe(job.values), f"candidate {job.number + 1}")
        objective = replace(self.objective, portions=(self.objective.anchors,)) if job.anchors else self.objective
        fault = None
        try:
            found, stopped = ask(subject, objective, partial(_hopeful, self.objective, job.rival))
        except DataError as error:
            found, stopped, fault = {}, True, error
        return Answer(job.number, found, stopped, self.live.made, round(time.perf_counter() - started, 3), fault)


def _hopeful(objective: Objective, rival: Mapping[str, Sequence[float]] | None, found: Found) -> bool:
    """Whether a candidate may still be better than the best one, by what it gave so far."""
    return rival is None or not objective.behind(found, rival)


def alone(space: Space, objective: Objective, live: LiveModel) -> Ask:
    """Candidates scored in this process, one after another."""
    return partial(map, Worker(space, objective, live).answer)


def check_stamps(live: LiveModel, stamps: Mapping[str, Any]) -> None:
    """Raises PlanError where a worker's models are not those that the driver sees; they are then closed."""
    changed = [name for name, stamp in stamps.items() if live.stamps.get(name) != stamp]
    if changed:
        live.close()
        raise PlanError(
            f"a worker on {os.uname().nodename} does not see what the driver sees",
            why=f"the files of {', '.join(changed)} differ",
            hint="give all machines one file system, and change no model during a search",
        )
