"""Plan to bytes: workers take tensors, largest first, and make each in buffers of their own."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from blake3 import blake3

from mergery.dtypes import F32, DType
from mergery.engine import CHUNK, STAGE, Held, Merging, Shared, Workspace, evaluator, whole_model
from mergery.graph.nodes import Merged
from mergery.graph.walking import computed_below, is_computed, merges_below
from mergery.kernels import compiling, kernels
from mergery.kernels.devices import CPU, WORKERS, Device, device_errors, find_devices
from mergery.kernels.threads import quiet_torch
from mergery.planning.layout import Slot
from mergery.planning.plan import Plan
from mergery.planning.steps import Step
from mergery.run.events import Compiling, Notify, Started, Statistics, Tally, ignore

BATCH = 4 << 20  # bytes of small tensors that a worker takes at once
BATCH_TENSORS = 256


class Sink(Protocol):
    """Where bytes go. `done` has the BLAKE3 digest of each tensor that need not be made again."""

    @property
    def done(self) -> Mapping[str, str]: ...

    def write(self, slot: Slot, start: int, data: np.ndarray) -> None: ...

    def finished(self, steps: list[Step], digests: Mapping[str, str]) -> None: ...


class Interrupted(Exception):
    """Another worker has failed, or the user has had enough."""


@dataclass(frozen=True)
class Options:
    """How a plan is run. No option changes a byte of the result, but a GPU may, within one rounding of the output's dtype."""

    threads: int = 0  # 0: as many as the machine has cores
    chunk: int = CHUNK  # elements
    stage: int = STAGE  # bytes of a worker's window that is read several times
    device: str = "cpu"  # or cuda:0, cuda (all), auto: `mergery.kernels.devices.find_devices`

    @property
    def workers(self) -> int:
        """Worker threads; on a GPU, as many as keep it busy."""
        cores = len(os.sched_getaffinity(0))
        gpus = sum(device != CPU for device in self.devices)
        return self.threads or (max(gpus, min(cores, gpus * WORKERS)) if gpus else cores)

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """What `device` means here. Workers are dealt to them in turn. Raises MergeryError."""
        return find_devices(self.device)


class Run:
    """One execution of a plan. Without `hashed` no digests are made: the sink gets empty ones. `held` are inputs that earlier
    runs have read, and what they will be known by in this one.
    """

    def __init__(
        self,
        plan: Plan,
        sink: Sink,
        options: Options = Options(),
        notify: Notify = ignore,
        *,
        hashed: bool = True,
        held: Held | None = None,
    ) -> None:
        self.plan, self.sink, self.options, self.notify, self.hashed = plan, sink, options, notify, hashed
        self.shared = Shared(plan.recipe.seed, {}, options.chunk, options.stage, held=held)
        self.local = threading.local()  # each worker's workspace
        self.dealt = itertools.cycle(options.devices)
        self.stop = threading.Event()
        self.tally = Tally("merging", sum(step.slot.info.nbytes for step in plan.steps), notify)
        self.started = time.perf_counter()

    def execute(self) -> None:
        """Make every tensor that is not done yet. Raises the first error; what is finished stays finished."""
        todo = [step for step in self.plan.steps if step.name not in self.sink.done]
        self.tally.done = self.tally.total - sum(step.slot.info.nbytes for step in todo)
        loads = needs_torch(todo) or any(device != CPU for device in self.options.devices)
        with quiet_torch(load=loads), announced(self.notify):
            if any(is_computed(step.node) for step in todo):
                wake_kernels()
            self.started = time.perf_counter()
            self.notify(Started(len(self.plan.steps), len(self.plan.steps) - len(todo)))
            with device_errors(), ThreadPoolExecutor(self.options.workers, thread_name_prefix="mergery") as pool:
                try:
                    self.statistics(pool, todo)
                    self.make_all(pool, todo)
                except BaseException:
                    self.stop.set()  # the pool waits for its workers, which end at their next window
                    raise

    def make_all(self, pool: ThreadPoolExecutor, todo: list[Step]) -> None:
        """Let every worker of the pool take batches until none is left."""
        queue = deque(batches(todo))
        for future in [pool.submit(self.work, queue) for _ in range(self.options.workers)]:
            future.result()

    def work(self, queue: deque[list[Step]]) -> None:
        """What one worker does: take a batch, make its tensors, and tell the sink which of them are whole."""
        try:
            while not self.stop.is_set():
                try:
                    batch = queue.popleft()
                except IndexError:
                    return
                digests: dict[str, str] = {}
                try:
                    for step in batch:
                        if self.stop.is_set():
                            return
                        digests[step.name] = self.make(step)
                finally:  # what is whole is kept, whatever stops the rest of the batch
                    self.sink.finished([step for step in batch if step.name in digests], digests)
        except Interrupted:
            return
        except BaseException:
            self.stop.set()
            raise

    @property
    def workspace(self) -> Workspace:
        """This thread's buffers, on the device that it is dealt."""
        if not hasattr(self.local, "workspace"):
            self.local.workspace = Workspace(next(self.dealt))
        return self.local.workspace

    def make(self, step: Step) -> str:
        """Make one tensor. Returns the BLAKE3 digest of its bytes, or nothing where that is not wanted."""
        info = step.slot.info
        size = info.dtype.itemsize
        hasher = blake3() if self.hashed else None
        making = evaluator(step.node, self.shared, self.workspace)
        making.prepare()
        memory = self.memory(step)
        for start, stop in making.outputs():
            if self.stop.is_set():
                raise Interrupted
            if memory is not None:
                place, dtype = memory
                making.compute(start, stop, place[start * dtype.itemsize : stop * dtype.itemsize], dtype)
                self.tally.add((stop - start) * size)
                continue
            out = self.workspace.row(-1, "out", (stop - start) * size)
            making.compute(start, stop, out, info.dtype)
            if hasher is not None:
                hasher.update(out.data)
            self.sink.write(step.slot, start * size, out)
            self.tally.add(out.size)
        return hasher.hexdigest() if hasher is not None else ""

    def memory(self, step: Step) -> tuple[np.ndarray, DType] | None:
        """Where the sink wants a tensor's bytes, uint8, and in which type, if they can be put there at once."""
        find = getattr(self.sink, "memory", None)
        if find is None or self.hashed or self.workspace.device != CPU:
            return None
        found: tuple[np.ndarray, DType] | None = find(step.slot)
        if found is not None and found[1] != step.slot.info.dtype and not isinstance(step.node, Merged):
            return None  # what is copied is not checked, and a conversion checks
        return found

    # --- model-wide statistics ------------------------------------------------------------------------------------------

    def statistics(self, pool: ThreadPoolExecutor, todo: list[Step]) -> None:
        """What methods ask of the whole model: passes over all its tensors, before the first is made."""
        if not todo:
            return
        journal = getattr(self.sink, "journal", None)
        remembered = {} if journal is None else journal.facts

        def scan(nodes: list[Merged], visit: Callable[..., Any], *counted: np.ndarray) -> list[Any]:
            return self.scan(pool, nodes, visit, *counted)

        for merge, nodes in merges_below([step.node for step in self.plan.steps]).items():
            for question in whole_model.questions(nodes):
                names = [f"{name} of merge {merge}" for name in question.names]
                if not all(name in remembered for name in names):
                    self.notify(Statistics(len(question.nodes), question.names))
                    facts = dict(zip(names, whole_model.answer(question, scan, self.shared.held), strict=True))
                    remembered = {**remembered, **facts}
                    if journal is not None:
                        journal.remember(**facts)
                for key, name in zip(question.names, names, strict=True):
                    self.shared.statistics[merge, key] = remembered[name]

    def scan(
        self, pool: ThreadPoolExecutor, nodes: list[Merged], visit: Callable[..., Any], *counted: np.ndarray
    ) -> list[Any]:
        """See `mergery.engine.whole_model.Scan`: the pool's workers take tensors, largest first."""
        queue = deque(sorted(range(len(nodes)), key=lambda number: -nodes[number].elements))
        results: list[Any] = [None] * len(nodes)

        def worker() -> list[np.ndarray]:
            own = [np.zeros_like(array) for array in counted]
            while not self.stop.is_set():
                try:
                    number = queue.popleft()
                except IndexError:
                    break
                try:
                    results[number] = visit(Merging(nodes[number], self.shared, self.workspace), *own)
                except BaseException:
                    self.stop.set()
                    raise
            return own

        try:
            for future in [pool.submit(worker) for _ in range(self.options.workers)]:
                for array, part in zip(counted, future.result(), strict=True):
                    array += part
        except BaseException:
            self.stop.set()
            raise
        return results


@contextmanager
def announced(notify: Notify) -> Iterator[None]:
    """Make an event of each kernel that has to be compiled."""

    def tell(name: str) -> None:
        notify(Compiling(name))

    compiling.append(tell)
    try:
        yield
    finally:
        compiling.remove(tell)


def wake_kernels() -> None:
    """Load the kernels before the workers want them: all would wait for the first."""
    word = np.zeros(8, dtype=np.uint8)
    kernels().convert(word, F32.code, 1, word.copy(), F32.code)


def batches(steps: list[Step], limit: int = BATCH) -> Iterator[list[Step]]:
    """Steps for workers: largest first, small ones in batches of about `limit` bytes."""
    ordered = sorted(steps, key=lambda step: -step.slot.info.nbytes)
    batch: list[Step] = []
    size = 0
    for step in ordered:
        batch.append(step)
        size += step.slot.info.nbytes
        if size >= limit or len(batch) >= BATCH_TENSORS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def needs_torch(steps: list[Step]) -> bool:
    """Whether any tensor is made by torch rather than by a kernel."""
    nodes = (node for found in merges_below([step.node for step in steps]).values() for node in found)
    told: dict[tuple[str, int], bool] = {}
    for node in nodes:
        key = (node.method.name, id(node.settings))
        if key not in told:
            told[key] = node.method.uses_torch(node.settings)
    return any(told.values()) or any(each.torch for step in steps for each in computed_below(step.node))
