"""Workers that are actors of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mergery.errors import MergeryError, PlanError
from mergery.exploration.parallel.team import Gone
from mergery.exploration.parallel.work import Answer, Job, Setup, Worker
from mergery.run.cluster import connected, import_ray


class Actor:
    """One process of the cluster. It opens the models when it is first asked."""

    def __init__(self, setup: Setup, device: str) -> None:
        self.setup, self.device = setup, device
        self.worker: Worker | None = None

    def answer(self, job: Job) -> Answer:
        """Score a candidate."""
        self.worker = self.worker or self.setup.open(self.device)
        return self.worker.answer(job)


class Cluster:
    """Actors of a Ray cluster, each with some cores and, where the cluster has them, a GPU. See `team.Crew`."""

    def __init__(self, ray: Any, setup: Setup, size: int) -> None:
        self.ray, self.size = ray, size
        resources = ray.cluster_resources()
        cores, own = int(resources.get("CPU", 0)), setup.threads or 1
        gpu = resources.get("GPU", 0) >= size
        if cores < size * own:
            raise PlanError(
                f"the cluster has {cores} cores, and {size} workers take {own} each",
                hint="fewer --workers, or fewer --threads",
            )
        self.role = ray.remote(num_cpus=own, num_gpus=int(gpu), max_restarts=0)(Actor)
        self.setup, self.device = ray.put(setup), "cuda" if gpu else "auto"
        self.actors: list[Any] = []
        self.answers: dict[int, Any] = {}  # that are waited for, by the actor's id

    def hire(self, place: int) -> Any:
        actor = self.role.remote(self.setup, self.device)
        self.actors.append(actor)
        return actor

    def give(self, worker: Any, job: Job) -> None:
        self.answers[id(worker)] = worker.answer.remote(job)

    def wait(self, busy: Sequence[Any]) -> list[tuple[Any, Answer | Gone]]:
        ready, _ = self.ray.wait([self.answers[id(worker)] for worker in busy], num_returns=1)
        news: list[tuple[Any, Answer | Gone]] = []
        for worker in busy:
            if self.answers[id(worker)] in ready:
                news.append((worker, self._news(worker)))
        return news

    def _news(self, worker: Any) -> Answer | Gone:
        errors = self.ray.exceptions
        try:
            return self.ray.get(self.answers.pop(id(worker)))
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, MergeryError) else error from None
        except (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            self.actors.remove(worker)
            self.ray.kill(worker)
            return Gone("a worker of the cluster", str(error).strip().splitlines()[0])

    def close(self) -> None:
        """End all of them."""
        for actor in self.actors:
            self.ray.kill(actor)


@contextmanager
def cluster(setup: Setup, size: int, address: str) -> Iterator[Cluster]:
    """Actors of the cluster at an address, ended with the block. Raises PlanError where there is none."""
    ray = import_ray()
    with connected(ray, address):
        crew = Cluster(ray, setup, size)
        try:
            yield crew
        finally:
            crew.close()
