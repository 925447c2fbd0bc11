"""A merge on a Ray cluster gives the bytes of a local one, whatever happens to its workers."""

from __future__ import annotations

import builtins
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mergery import api
from mergery.errors import DataError, PlanError
from mergery.run import cluster as driver
from mergery.run.cluster import Batch, Queue, WorkerHandle
from mergery.run.events import Event, Finished, Joined, Lost, Progress
from mergery.run.merging import Result
from tests.conftest import weights_of

TEXT = """\
models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}
merge: {method: ties, base: base, density: 0.4}
output: {shard_size: 60kB}
seed: 11
"""


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two cores' worth of real worker processes, which end with the module."""
    ray = pytest.importorskip(
        "ray", reason="Ray is not installed: pip install 'mergery[ray]' to test runs on a cluster"
    )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False, logging_level="ERROR"
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every tensor a batch of its own."""
    monkeypatch.setattr(driver, "BATCH", 1)


def test_a_cluster_gives_the_bytes_of_one_machine(recipe, tmp_path, cluster):
    path = recipe(TEXT)
    api.merge(path, tmp_path / "local")
    events: list[Event] = []
    result = api.merge(path, tmp_path / "out", ray="auto", on_event=events.append)
    assert isinstance(result, Result)
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "local")
    assert not api.verify(tmp_path / "out", sample=2)
    assert any(isinstance(event, Joined) for event in events) and isinstance(events[-1], Finished)
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert last.bytes == last.total


def test_workers_know_what_was_asked_of_the_whole_model(recipe, tmp_path, cluster):
    path = recipe(TEXT.replace("method: ties, base: base, density: 0.4", "method: emr, base: base, task: b"))
    api.merge(path, tmp_path / "local")
    api.merge(path, tmp_path / "out", ray="auto")
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "local")


def test_a_killed_workers_tensors_are_made_elsewhere(recipe, tmp_path, cluster, many):
    path = recipe(TEXT)
    api.merge(path, tmp_path / "local")
    events: list[Event] = []

    def kill_one(event: Event) -> None:
        if isinstance(event, Progress) and not any(isinstance(each, Progress) for each in events):
            os.kill(next(each.process for each in events if isinstance(each, Joined)), signal.SIGKILL)
        events.append(event)

    api.merge(path, tmp_path / "out", ray="auto", on_event=kill_one)
    assert any(isinstance(event, Lost) for event in events)
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "local")


def stop(event: Event) -> None:
    if isinstance(event, Progress) and event.bytes > 20_000:
        raise Killed


@pytest.mark.parametrize(("first", "second"), [("auto", None), (None, "auto")])
def test_a_cluster_and_one_machine_go_on_with_each_others_runs(
    recipe, tmp_path, cluster, many, monkeypatch, first, second
):
    monkeypatch.setattr("mergery.run.workers.BATCH_TENSORS", 1)
    path = recipe(TEXT)
    api.merge(path, tmp_path / "calm")
    with pytest.raises(Killed):
        api.merge(path, tmp_path / "out", ray=first, on_event=stop)
    assert (tmp_path / "out.partial/journal.jsonl").exists()
    result = api.merge(path, tmp_path / "out", ray=second)
    assert isinstance(result, Result)
    assert result.resumed > 0
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "calm")


def test_a_worker_that_is_lost_again_and_again_ends_the_run(recipe, tmp_path, cluster, many):
    def kill_all(event: Event) -> None:
        if isinstance(event, Joined):
            os.kill(event.process, signal.SIGKILL)

    with pytest.raises(PlanError, match=r"4 workers were lost while they made '.*'[\s\S]*try: see Ray's logs"):
        api.merge(recipe(TEXT), tmp_path / "out", ray="auto", on_event=kill_all)


def test_an_error_in_a_worker_is_the_users_error(recipe, tmp_path, llamas, cluster):
    from safetensors.torch import load_file, save_file

    tensors = load_file(llamas / "a" / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    (tmp_path / "broken").mkdir()
    save_file(tensors, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    path = recipe("models: {a: {llamas}/a, broken: ./broken}\nmerge: {method: linear}\n")
    with pytest.raises(DataError, match=r"'model\.norm\.weight' of model 'broken' holds NaN"):
        api.merge(path, tmp_path / "out", ray="auto")


def test_models_in_memory_are_refused(tmp_path, cluster):
    import torch

    model = {"w.weight": torch.ones(4)}
    with pytest.raises(PlanError, match="the model 'a' is in memory"):
        api.merge({"models": {"a": model, "b": model}, "merge": {"method": "linear"}}, tmp_path / "out", ray="auto")


def test_without_ray_the_error_says_what_to_install(recipe, tmp_path, monkeypatch, mergery):
    real = builtins.__import__

    def no_ray(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "ray" or name.startswith("ray."):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    outcome = mergery("merge", recipe(TEXT), tmp_path / "out", "--ray", "auto")
    assert outcome.code == 2
    assert "mergery: Ray is not installed" in outcome.err
    assert "try: pip install 'mergery[ray]', on every machine" in outcome.err


def test_memory_is_no_place_for_a_cluster_to_write_to(recipe):
    with pytest.raises(PlanError, match="a cluster cannot write to memory"):
        api.merge(recipe(TEXT), ray="auto")


def test_a_worker_stays_with_a_file_and_then_helps_where_most_is_left(recipe, llamas):
    plan = api.plan(Path(recipe(TEXT)))
    queue = Queue()
    for step in plan.steps:
        queue.add(Batch([step]))
    plan.close()
    first, second = WorkerHandle(None), WorkerHandle(None)
    workers = [first, second]
    batch, other = queue.take(first, workers), queue.take(second, workers)
    assert batch is not None and other is not None
    assert first.home != second.home
    taken = [batch]
    while first.home == batch.home and (more := queue.take(first, workers)) is not None:
        taken.append(more)
    assert [each.home for each in taken[:-1]] == [batch.home] * (len(taken) - 1)
    assert batch.home not in queue.homes
    queue.put_back(batch)
    assert queue.homes[batch.home][0] is batch
