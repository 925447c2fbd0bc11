"""Candidates scored by several workers: the same study with any number of them, and none lost with a worker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mergery as library
from mergery.errors import MergeryError, PlanError
from mergery.evaluation import EvaluationOptions
from mergery.exploration.options import SearchOptions
from mergery.exploration.parallel import cluster as distant
from mergery.exploration.parallel import processes as local
from mergery.exploration.parallel.team import Gone, Team
from mergery.exploration.parallel.work import Answer, Job
from mergery.exploration.study import Study
from mergery.run.events import Event, Lost, Tried
from tests.exploration.test_searching import found, planted
from tests.exploration.test_study import bowl, space

__all__ = ["planted"]
ONE = EvaluationOptions(threads=1)


def search(planted: Path, out: Path, trials: int = 7, **options: Any) -> dict[str, Any]:
    events = options.pop("on_event", None)
    asked = SearchOptions(trials=trials, together=3, **options)
    tasks = planted / "texts.jsonl"
    library.search(planted / "recipe.yaml", out, tasks, options=asked, evaluation_options=ONE, on_event=events)
    return found(out)


@pytest.fixture(scope="module")
def whole(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one worker finds."""
    return search(planted, tmp_path_factory.mktemp("whole") / "out")


def test_two_workers_find_what_one_finds_though_one_of_them_is_killed(
    planted: Path, tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hired: list[local.Process] = []
    plain = local.Processes.hire
    monkeypatch.setattr(local.Processes, "hire", lambda crew, place: hired.append(plain(crew, place)) or hired[-1])
    lost: list[Event] = []

    def watch(event: Event) -> None:
        if isinstance(event, Tried) and event.number == 3:
            os.kill(hired[0].process.pid, signal.SIGKILL)
        if isinstance(event, Lost):
            lost.append(event)

    assert search(planted, tmp_path / "out", workers=2, on_event=watch) | {"recipe": ""} == whole | {"recipe": ""}
    assert len(hired) == 3
    assert len(lost) == 1
    assert all(worker.process.poll() is not None for worker in hired)


def test_a_search_that_was_stopped_in_a_draw_goes_on_to_the_same_end(
    planted: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    class Killed(BaseException):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Tried) and event.number == 3:
            raise Killed

    with pytest.raises(Killed):
        search(planted, tmp_path / "out", on_event=stop)
    assert search(planted, tmp_path / "out", trials=6)["candidates"] == whole["candidates"][:6]
    assert search(planted, tmp_path / "out")["candidates"] == whole["candidates"]


@pytest.mark.parametrize("sampler", ["cma", "tpe", "random", "grid"])
def test_draws_of_a_stopped_study_are_those_of_a_whole_one(tmp_path: Path, sampler: str) -> None:
    over = space(tmp_path)

    def run(folder: str, until: int, trials: int = 22) -> Study:
        (tmp_path / folder).mkdir(exist_ok=True)
        study = Study(tmp_path / folder, over, SearchOptions(sampler, trials=trials, together=4), "question")
        while len(study.candidates) < min(until, study.most):
            for trial, values in study.draw():
                if len(study.candidates) < until:
                    study.tell(trial, values, [bowl(values)], {}, stopped=False)
        return study

    whole = run("whole", 22)
    for until in (2, 7, 8, 15):
        run("parts", until)
    again = run("parts", 22)
    assert [each.values for each in again.candidates] == [each.values for each in whole.candidates]


class Hands:
    """A crew without processes: it answers the last of those that are at work first, and drops what it is told to."""

    def __init__(self, size: int, drop: dict[int, int]) -> None:
        self.size, self.drop, self.jobs = size, drop, dict[int, Job]()
        self.hired = 0

    def hire(self, place: int) -> Any:
        assert 0 <= place < self.size
        self.hired += 1
        return object()

    def give(self, worker: Any, job: Job) -> None:
        self.jobs[id(worker)] = job

    def wait(self, busy: Any) -> list[tuple[Any, Answer | Gone]]:
        worker = busy[-1]
        job = self.jobs[id(worker)]
        if self.drop.get(job.number, 0):
            self.drop[job.number] -= 1
            return [(worker, Gone("a hand", "dropped"))]
        return [(worker, Answer(job.number, {"task": [float(job.number), 1.0]}, False, 0, 0.0))]


def jobs(count: int) -> list[Job]:
    return [Job(number, {}, None) for number in range(count)]


def test_answers_come_in_the_order_of_the_candidates() -> None:
    for size in (1, 2, 5):
        team = Team(Hands(size, {1: 2, 3: 1}), lambda event: None)
        assert [answer.number for answer in team.ask(jobs(6))] == list(range(6))
        assert [answer.number for answer in team.ask(jobs(2))] == [0, 1]


def test_a_candidate_that_takes_every_worker_with_it_ends_the_search() -> None:
    with pytest.raises(PlanError, match="4 workers were lost while they scored candidate 2"):
        list(Team(Hands(2, {1: 9}), lambda event: None).ask(jobs(4)))


def test_a_device_that_is_not_there_is_told_before_any_work(planted: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="there is no device 'cuda:77'"):
        search(planted, tmp_path / "out", workers=2, devices=("cpu", "cuda:77"))


def test_what_a_worker_refuses_is_told_as_it_is(planted: Path, tmp_path: Path) -> None:
    """A tokenizer that is not there: the first to look for it is a worker."""
    options = SearchOptions(trials=4, workers=2)
    with pytest.raises(MergeryError, match="tokenizer"):
        library.search(
            planted / "recipe.yaml", tmp_path / "out", planted / "texts.jsonl", options=options, tokenizer=tmp_path
        )


def test_models_in_memory_are_refused_since_a_recipe_names_files(planted: Path, tmp_path: Path, zoo: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(zoo / "a")
    recipe = {
        "models": {"base": model, "a": model},
        "merge": {"method": "task_arithmetic", "base": "base", "scale": {"search": [0, 1]}},
    }
    with pytest.raises(PlanError, match="is in memory"):
        library.search(
            recipe, tmp_path / "out", planted / "texts.jsonl", options=SearchOptions("random", workers=2),
            tokenizer=AutoTokenizer.from_pretrained(zoo / "a"),
        )  # fmt: skip


@pytest.fixture
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'mergery[ray]' to test a cluster")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, log_to_driver=False, logging_level="ERROR"
    )
    yield ray
    ray.shutdown()


def test_a_cluster_finds_the_same_though_a_worker_is_killed(
    planted: Path, tmp_path: Path, whole: dict[str, Any], ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hired: list[Any] = []
    plain = distant.Cluster.hire
    monkeypatch.setattr(distant.Cluster, "hire", lambda crew, place: hired.append(plain(crew, place)) or hired[-1])
    lost: list[Event] = []

    def watch(event: Event) -> None:
        if isinstance(event, Tried) and event.number == 3:
            ray.kill(hired[0])
        if isinstance(event, Lost):
            lost.append(event)

    assert search(planted, tmp_path / "out", workers=2, ray="auto", on_event=watch)["candidates"] == whole["candidates"]
    assert len(hired) == 3
    assert len(lost) == 1


def test_the_command_line(mergery: Any, planted: Path, tmp_path: Path) -> None:
    command = ("search", planted / "recipe.yaml", tmp_path / "out", "--tasks", planted / "texts.jsonl", "--trials", "4")
    done = mergery(*command, "--workers", "2", "--json")
    assert done.code == 0, done.err
    tried = [json.loads(line) for line in done.out.splitlines() if '"tried"' in line]
    assert [each["number"] for each in tried] == [1, 2, 3, 4]
    done = mergery(*command, "--workers", "0")
    assert done.code == 2
    assert "workers is 0" in done.err
