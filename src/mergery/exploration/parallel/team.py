"""Workers that share out candidates: who has which, and what becomes of a candidate whose worker is lost."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mergery.errors import PlanError
from mergery.run.events import Lost, Notify

LOSSES = 3  # times that one candidate's worker may be lost before the search gives up


@dataclass(frozen=True)
class Gone:
    """News of a lost worker."""

    place: str
    reason: str


class Crew(Protocol):
    """Workers of one kind. A worker is whatever `hire` returns; it works on one candidate at a time."""

    size: int  # workers at most

    def hire(self, place: int) -> Any:
        """A new worker, for one of the places from 0 to `size` - 1."""
        ...

    def give(self, worker: Any, job: Any) -> None:
        """Let a worker score a candidate."""
        ...

    def wait(self, busy: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Wait until one of the workers has an answer or is lost. Raises what a worker raised."""
        ...


class Team:
    """Puts candidates to a crew, and gives the answers in the candidates' order. Both have a `number`."""

    def __init__(self, crew: Crew, notify: Notify) -> None:
        self.crew, self.notify = crew, notify
        self.free = deque(range(crew.size))  # places without a worker
        self.idle: deque[Any] = deque()
        self.places: dict[int, int] = {}  # of workers, by their id
        self.busy: dict[int, tuple[Any, Any]] = {}
        self.losses: Counter[int] = Counter()

    def ask(self, jobs: Sequence[Any]) -> Iterator[Any]:
        """Score candidates; those that are done wait for the ones before them."""
        waiting, done = deque(jobs), dict[int, Any]()
        for job in jobs:
            while job.number not in done:
                self._occupy(waiting)
                for worker, news in self.crew.wait([worker for worker, _ in self.busy.values()]):
                    _, own = self.busy.pop(id(worker))
                    if isinstance(news, Gone):
                        self._replace(worker, own, news)
                        waiting.appendleft(own)
                    else:
                        done[own.number] = news
                        self.idle.append(worker)
            yield done.pop(job.number)

    def _occupy(self, waiting: deque[Any]) -> None:
        while waiting and (self.idle or self.free):
            if self.idle:
                worker = self.idle.popleft()
            else:
                place = self.free.popleft()
                worker = self.crew.hire(place)
                self.places[id(worker)] = place
            job = waiting.popleft()
            self.busy[id(worker)] = worker, job
            self.crew.give(worker, job)

    def _replace(self, worker: Any, job: Any, news: Gone) -> None:
        self.notify(Lost(news.place, news.reason))
        self.free.append(self.places.pop(id(worker)))
        self.losses[job.number] += 1
        if self.losses[job.number] > LOSSES:
            what = f"{self.losses[job.number]} workers were lost while they scored candidate {job.number + 1}"
            hint = "where memory is short, fewer workers or a smaller --batch take less"
            raise PlanError(what, why=news.reason, hint=hint)
