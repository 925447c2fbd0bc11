"""One plan on many machines: a Ray cluster's workers make the tensors, and the driver keeps the journal.

The machines share a file system, under the same paths, with the recipe's models and the output. The driver plans, lays out
the output's files and computes model-wide statistics. A worker makes the plan again from the recipe, which must come out
with the driver's digest, writes tensors to their places in the files, syncs them, and answers with their digests; only then
does the driver write its journal. So a run can be killed anywhere, and goes on with a cluster or without.

A worker that is lost is replaced, and its tensors are made again elsewhere. One that is only thought to be lost does no harm:
it writes the same bytes to the same places.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mergery.errors import MergeryError, PlanError
from mergery.planning.plan import Plan
from mergery.planning.steps import Step
from mergery.recipe import Recipe, Source
from mergery.run.cluster_worker import Job, Worker
from mergery.run.events import Joined, Lost, Notify
from mergery.run.sinks import FolderSink
from mergery.run.workers import Options, Run, batches

BATCH = 64 << 20  # bytes that a worker is given at once: a call takes a millisecond
LOSSES = 3  # times that a batch's worker, or a new worker, may be lost before the run gives up
PATIENCE = 600.0  # seconds to wait for the cluster's first worker
LOCAL = "local"  # the address that stands for workers on this machine alone


@dataclass
class Batch:
    """Steps of one output file that a worker makes in one call."""

    steps: list[Step]
    losses: int = 0

    @property
    def home(self) -> int:
        """The output file: its tensors stand together in the inputs' files too, so one machine should read them."""
        return self.steps[0].slot.shard

    @property
    def nbytes(self) -> int:
        return sum(step.slot.info.nbytes for step in self.steps)


@dataclass(eq=False)
class WorkerHandle:
    """A worker as the driver knows it."""

    actor: Any
    home: int = -1
    place: str = "a worker that had not started"


@dataclass
class Queue:
    """Batches that are to be made, by output file."""

    homes: dict[int, deque[Batch]] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        self.homes.setdefault(batch.home, deque()).append(batch)

    def put_back(self, batch: Batch) -> None:
        self.homes.setdefault(batch.home, deque()).appendleft(batch)

    def take(self, worker: WorkerHandle, workers: list[WorkerHandle]) -> Batch | None:
        """The next batch for a worker: of the file it is at, else of the one where most is left for each worker there."""
        if worker.home not in self.homes:
            if not self.homes:
                return None

            def share(home: int) -> float:
                left = sum(batch.nbytes for batch in self.homes[home])
                return left / (1 + sum(other.home == home for other in workers if other is not worker))

            worker.home = max(self.homes, key=share)
        batch = self.homes[worker.home].popleft()
        if not self.homes[worker.home]:
            del self.homes[worker.home]
        return batch


class ClusterRun(Run):
    """One execution of a plan by the workers of a Ray cluster."""

    sink: FolderSink

    def __init__(self, plan: Plan, sink: FolderSink, options: Options, notify: Notify, address: str) -> None:
        super().__init__(plan, sink, options, notify)
        self.address = address
        self.threads = options.threads or 1  # of each worker
        self.workers: list[WorkerHandle] = []
        self.starting: dict[Any, WorkerHandle] = {}
        self.busy: dict[Any, tuple[WorkerHandle, Batch]] = {}
        self.failed_starts = 0

    def make_all(self, pool: ThreadPoolExecutor, todo: list[Step]) -> None:
        """Give every step to a worker, and journal what comes back."""
        if not todo:
            return
        refuse_memory(self.plan.recipe)
        ray = import_ray()
        self.queue = Queue()
        self.numbers = {step.name: number for number, step in enumerate(self.plan.steps)}
        count = 0
        for home in sorted({step.slot.shard for step in todo}):
            for steps in batches([step for step in todo if step.slot.shard == home], BATCH):
                self.queue.add(Batch(steps))
                count += 1
        with connected(ray, self.address):
            cores = int(ray.cluster_resources().get("CPU", 0))
            if cores < self.threads:
                raise PlanError(
                    f"the cluster has {cores} cores, and a worker takes {self.threads}",
                    hint="add machines, or give --threads a smaller number",
                )
            try:
                self.start_workers(ray, min(cores // self.threads, count))
                self.drive(ray)
            finally:
                for worker in [*self.workers, *self.starting.values()]:
                    ray.kill(worker.actor)

    def start_workers(self, ray: Any, count: int) -> None:
        recipe = replace(self.plan.recipe, folder=self.plan.recipe.folder.resolve())
        options = replace(self.options, threads=1)
        plan, folder = self.plan, self.sink.partial.resolve()
        job = ray.put(Job(recipe, plan.only, plan.digest, plan.stamps, folder, options, self.shared.statistics))
        role = ray.remote(num_cpus=self.threads, max_concurrency=self.threads, max_restarts=0)(Worker)
        for _ in range(count):
            worker = WorkerHandle(role.remote())
            self.starting[worker.actor.start.remote(job)] = worker

    def drive(self, ray: Any) -> None:
        """Hand out batches until the queue is empty and the last answer is back."""
        seen = time.monotonic()  # when there was a worker last, or the run began
        while self.queue.homes or self.busy:
            ready, _ = ray.wait([*self.starting, *self.busy], num_returns=1, timeout=1.0)
            for answer in ready:
                self.receive(ray, answer)
            if self.workers:
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                raise PlanError(
                    f"no worker of the cluster has started within {PATIENCE:.0f} s",
                    hint="look at `ray status`: other work may hold its cores",
                )

    def receive(self, ray: Any, answer: Any) -> None:
        """Take a worker's answer, or the news that it is lost."""
        errors = ray.exceptions
        starts = answer in self.starting
        worker, batch = (self.starting.pop(answer), None) if starts else self.busy.pop(answer)
        try:
            result = ray.get(answer)
        except errors.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise cause if isinstance(cause, MergeryError) else error from None
        except (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            self.lost(ray, worker, batch, error)
            return
        if batch is None:
            machine, process = result
            worker.place = f"process {process} on {machine}"
            self.workers.append(worker)
            self.notify(Joined(machine, process))
        else:
            self.sink.finished(batch.steps, result)
            self.tally.add(batch.nbytes)
        self.occupy(worker)

    def occupy(self, worker: WorkerHandle) -> None:
        """Keep one batch more at a worker than it can make at once."""
        while worker in self.workers and sum(other is worker for other, _ in self.busy.values()) <= self.threads:
            batch = self.queue.take(worker, self.workers)
            if batch is None:
                return
            numbers = [self.numbers[step.name] for step in batch.steps]
            self.busy[worker.actor.make.remote(numbers)] = worker, batch

    def lost(self, ray: Any, worker: WorkerHandle, batch: Batch | None, error: Exception) -> None:
        """Put a lost worker's batch back and start another worker, unless that has happened too often."""
        reason = first_line(error)
        hint = "see Ray's logs; where memory was short, --threads 1 and fewer workers on a machine take less"
        if batch is None:
            self.failed_starts += 1
            if self.failed_starts > LOSSES:
                raise PlanError(f"{self.failed_starts} workers were lost as they started", why=reason, hint=hint)
        else:
            batch.losses += 1
            if batch.losses > LOSSES:
                what = f"{batch.losses} workers were lost while they made {batch.steps[0].name!r}"
                raise PlanError(what, why=reason, hint=hint)
            self.queue.put_back(batch)
        if batch is None or worker in self.workers:
            self.notify(Lost(worker.place, reason))
            ray.kill(worker.actor)
            self.start_workers(ray, 1)
        if worker in self.workers:
            self.workers.remove(worker)
        for other in self.workers:
            self.occupy(other)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def import_ray() -> Any:
    """The ray module. Raises PlanError where it is not installed."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise PlanError("Ray is not installed", hint="pip install 'mergery[ray]', on every machine") from None
    return ray


def refuse_memory(recipe: Recipe) -> None:
    """Models must be files: other machines cannot see this process's memory."""
    for name, model in recipe.models.items():
        if isinstance(model, Source) and not isinstance(model.path, (str, os.PathLike)):
            raise PlanError(f"the model {name!r} is in memory", hint="save it to a folder that all machines see")


@contextmanager
def connected(ray: Any, address: str) -> Iterator[None]:
    """Join a cluster: `auto` for the one that RAY_ADDRESS or this machine knows, `local` for one of this machine alone."""
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address == LOCAL:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings |= {"include_dashboard": False, "object_store_memory": 80 << 20}
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address=address, **settings)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PlanError(
            f"cannot join the Ray cluster {address!r}",
            why=first_line(error),
            hint="start one with `ray start --head`, or --ray local",
        ) from None
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()
