"""What one worker meets stops the others, and threads of libraries stay quiet as long as there are workers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mergery import api
from mergery.errors import PlanError
from mergery.graph.walking import merges_below
from mergery.run import cluster
from mergery.run.cluster import Batch, ClusterRun, Queue, WorkerHandle
from mergery.run.cluster_worker import Job, Worker
from mergery.run.sinks import FolderSink, MemorySink
from mergery.run.workers import Options, Run

TEXT = """\
models: {base: {llamas}/base, a: {llamas}/a}
merge: {method: ties, base: base, density: 0.4}
"""


def test_a_fault_in_one_tensor_stops_the_scan_of_the_others(recipe):
    plan = api.plan(recipe(TEXT))
    run, failed = Run(plan, MemorySink(plan), Options(threads=2)), threading.Event()
    ((nodes),) = merges_below([step.node for step in plan.steps]).values()
    visited: list[str] = []

    def visit(merging: Any) -> None:
        visited.append(merging.node.name)
        if len(visited) == 2:
            failed.set()
            raise ValueError("the second")
        assert failed.wait(60)
        assert run.stop.wait(60)

    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="the second"):
        run.scan(pool, list(nodes), visit)
    assert len(visited) == 2 < len(nodes)


def test_a_clusters_worker_keeps_torch_to_one_thread(recipe, tmp_path, monkeypatch):
    plan = api.plan(Path(recipe(TEXT)))
    sink = FolderSink(plan, tmp_path / "out")
    job = Job(plan.recipe, (), plan.digest, plan.stamps, sink.partial, Options(threads=1), {})
    threads = torch.get_num_threads()
    worker = Worker()
    try:
        torch.set_num_threads(2)
        worker.start(job)
        assert torch.get_num_threads() == 1
    finally:
        worker.quiet.close()
        assert torch.get_num_threads() == 2
        torch.set_num_threads(threads)
        sink.abandon()


class Stalled:
    """A cluster that never answers, and the clock: each time it is asked, a second passes."""

    exceptions = SimpleNamespace()

    def __init__(self) -> None:
        self.now = 0.0
        self.asked = lambda: None

    def wait(self, answers: list[Any], *, num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self.now += 1.0
        self.asked()
        return [], answers


def test_only_time_without_a_worker_counts_as_waiting(recipe, tmp_path, monkeypatch):
    ray = Stalled()
    monkeypatch.setattr(cluster, "PATIENCE", 10.0)
    monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: ray.now))
    plan = api.plan(Path(recipe(TEXT)))
    sink = FolderSink(plan, tmp_path / "out")
    run = ClusterRun(plan, sink, Options(), lambda event: None, "auto")
    run.queue = Queue()
    run.queue.add(Batch(list(plan.steps)))
    run.workers.append(WorkerHandle(None))

    def lose_it_late() -> None:
        if ray.now > 50.0:
            run.workers.clear()

    ray.asked = lose_it_late
    with pytest.raises(PlanError, match="no worker of the cluster has started"):
        run.drive(ray)
    assert ray.now == 61.0
    sink.abandon()
