"""Soups and choices by several workers: what one finds, though workers are lost, and models that cannot be asked are told."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mergery as library
from mergery.errors import RecipeError
from mergery.evaluation import EvaluationOptions
from mergery.exploration import trying
from mergery.exploration.automatic.options import AutoOptions
from mergery.exploration.live import LiveModel
from mergery.exploration.parallel import asking
from mergery.exploration.parallel import processes as local
from mergery.exploration.soups.options import SoupOptions
from mergery.run.events import Event, Lost
from tests.exploration.test_soups import texts

__all__ = ["texts"]
ONE = EvaluationOptions(threads=1)


class Here:
    """A crew whose workers are in this process, which answer when they are waited for."""

    def __init__(self, setup: Any, size: int) -> None:
        self.setup, self.size = setup, size
        self.jobs: dict[int, Any] = {}
        self.opened: list[Any] = []

    def hire(self, place: int) -> Any:
        self.opened.append(self.setup.open("cpu"))
        return self.opened[-1]

    def give(self, worker: Any, job: Any) -> None:
        self.jobs[id(worker)] = job

    def wait(self, busy: Sequence[Any]) -> list[tuple[Any, Any]]:
        return [(busy[-1], busy[-1].answer(self.jobs.pop(id(busy[-1]))))]


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> list[Here]:
    """Crews that were called in place of processes."""
    found: list[Here] = []

    @contextmanager
    def here(setup: Any, size: int, devices: Sequence[str]) -> Iterator[Here]:
        found.append(Here(setup, size))
        yield found[-1]
        for worker in found[-1].opened:
            worker.live.close()

    monkeypatch.setattr(asking, "processes", here)
    monkeypatch.setattr(trying, "processes", here)
    return found


def soup(zoo: Path, texts: Path, out: Path, workers: int, on_event: Any = None) -> dict[str, Any]:
    models = {name: str(zoo / name) for name in ("base", "a", "b")}
    options = SoupOptions("soce", seed=1, workers=workers)
    library.soup(models, out, texts, options=options, evaluation_options=ONE, on_event=on_event)
    return json.loads((out / "soup.json").read_text()) | {"recipe": ""}


def test_two_workers_make_the_soup_of_one_though_one_of_them_is_killed(
    zoo: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = soup(zoo, texts, tmp_path / "one", 1)
    given: list[int] = []
    plain = local.Processes.give

    def give(crew: local.Processes, worker: local.Process, job: Any) -> None:
        plain(crew, worker, job)
        given.append(job.number)
        if len(given) == 3:
            os.kill(worker.process.pid, signal.SIGKILL)

    monkeypatch.setattr(local.Processes, "give", give)
    own: list[str] = []
    follow = LiveModel.follow
    monkeypatch.setattr(LiveModel, "follow", lambda live, plan: own.append(plan.digest) or follow(live, plan))
    lost: list[Event] = []
    found = soup(zoo, texts, tmp_path / "two", 2, lambda event: lost.append(event) if isinstance(event, Lost) else None)
    assert found == whole
    assert len(lost) == 1
    assert len(given) == len(set(given)) + 1  # the candidate of the one that was killed, again
    assert len(set(own)) <= 2  # of a greedy soup one step is known after the other: here a second model, and a third


def test_a_choice_by_two_workers_is_that_of_one(zoo: Path, texts: Path, tmp_path: Path, crews: list[Here]) -> None:
    """A budget that leaves no time for a search, so that no clock decides."""

    def choose(out: Path, workers: int) -> dict[str, Any]:
        models = {name: str(zoo / name) for name in ("a", "b")}
        asked = AutoOptions(10.0, 3, workers)
        found = library.auto(str(zoo / "base"), models, out, texts, options=asked, evaluation_options=ONE)
        return {
            "tried": {each.name: each.search for each in found.tried}, "skipped": dict(found.skipped),
            "verdict": found.verdict.words,
        }  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mergery.exploration.automatic.running.REFINED", 0)
        one = choose(tmp_path / "one", 1)
        assert not crews
        two = choose(tmp_path / "two", 2)
    assert two == one
    assert len(crews) == 1
    assert len(crews[0].opened) == 2


@pytest.mark.parametrize("options", [SoupOptions, AutoOptions])
def test_there_is_a_worker(options: Any) -> None:
    with pytest.raises(RecipeError, match="workers is 0"):
        options(workers=0)
