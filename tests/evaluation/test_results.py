"""Results: asked once, kept as they come, gone on with after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import mergery
from mergery.errors import TaskError
from mergery.evaluation import EvaluationOptions, read_result
from mergery.evaluation.results import Store
from tests.evaluation.conftest import choices, texts


@pytest.fixture
def finished(zoo, write, tmp_path):
    """A finished run: its function, and its file."""
    task = write(choices(12))

    def run(model: object = zoo / "a", **settings: Any):
        return mergery.evaluate(
            model, task, results=tmp_path / "results", options=EvaluationOptions(batch=8, **settings)
        ).tasks[0]

    return run, Path(run().file)


def test_what_was_asked_before_is_read(finished, monkeypatch):
    run, file = finished
    monkeypatch.setattr("mergery.evaluation.models.Subject.load", lambda *_: pytest.fail("the model was loaded"))
    again = run()
    assert again.cached
    assert again.file == str(file)
    assert {outcome.item: outcome for outcome in again.items} == {o.item: o for o in read_result(file).items}


def test_a_copy_of_a_model_is_the_same_model_and_a_changed_one_is_not(finished, zoo, tmp_path):
    run, _ = finished
    shutil.copytree(zoo / "a", tmp_path / "a")
    assert run(tmp_path / "a").cached
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    assert not run(tmp_path / "a").cached
    assert not run(zoo / "b").cached
    assert not run(longest=32).cached


def test_a_killed_run_goes_on_with_the_same_bytes(finished, zoo):
    _, file = finished
    whole = file.read_bytes()
    rows = whole.split(b"\n")
    for kept in (b"\n".join(rows[:5]) + b"\n", b"\n".join(rows[:7]) + b'\n{"item": "3", "ca', b""):
        file.write_bytes(kept)
        seen = []
        found = mergery.evaluate(
            zoo / "a", file.parent.parent.parent / "task.jsonl", results=file.parent.parent, options=EvaluationOptions(batch=8),
            on_event=seen.append,
        ).tasks[0]  # fmt: skip
        assert not found.cached
        assert seen[0].resumed == max(0, kept.count(b"\n") - 1)
        rest = file.read_bytes().split(b"\n")
        # Rows that a kill cut short are made again with their batch; the last line holds the time that it took.
        unique = list(dict.fromkeys(rest[:-2]))
        assert sorted(unique) == sorted(rows[:-2])
        assert read_result(file).scores == found.scores


def test_a_damaged_line_is_told(finished):
    run, file = finished
    rows = file.read_text().split("\n")
    file.write_text("\n".join([*rows[:3], "{}", *rows[4:]]))
    with pytest.raises(TaskError, match=r"results.jsonl:4:1: this line of results is damaged(.|\n)*remove"):
        run()


def test_two_runs_do_not_write_one_file(finished, tmp_path):
    run, file = finished
    key = json.loads(file.read_text().split("\n")[0])["key"]
    with Store(file, {"key": key}), pytest.raises(TaskError, match="another run is writing"):
        run()


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_is_refused_leaves_nothing_behind(zoo, write, tmp_path, monkeypatch, there):
    def refused(*_: object) -> None:
        raise TaskError("the tokenizer gives this text no token")

    monkeypatch.setattr("mergery.evaluation.answering.prepare", refused)
    if there:
        (tmp_path / "results").mkdir()
    with pytest.raises(TaskError, match="no token"):
        mergery.evaluate(zoo / "a", write(texts(2)), results=tmp_path / "results")
    assert (tmp_path / "results").exists() == there
    assert not list(tmp_path.glob("results/*"))


def test_an_unfinished_run_is_no_result(finished):
    _, file = finished
    rows = file.read_text().split("\n")
    file.write_text("\n".join(rows[:4]) + "\n")
    with pytest.raises(TaskError, match="this run was not finished"):
        read_result(file)


def test_the_command_line_shows_scores_and_prints_json(mergery, zoo, write, tmp_path):
    tasks = write(choices(4, category="x"), "c.jsonl"), write(texts(3), "t.jsonl")
    outcome = mergery("evaluate", zoo / "a", "--tasks", *tasks, "--results", tmp_path / "r", "--threads", 1)
    assert outcome.code == 0
    assert "accuracy_normalised" in outcome.out
    assert "bits_per_byte (lower is better)" in outcome.out
    assert "loading a" in outcome.err
    assert "longer than the model takes at once" not in outcome.err
    outcome = mergery("evaluate", zoo / "a", "--tasks", *tasks, "--results", tmp_path / "r", "--json")
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [line["event"] for line in lines] == ["asked", "scored", "asked", "scored", "evaluated"]
    assert [task["cached"] for task in lines[-1]["tasks"]] == [True, True]
    assert mergery("evaluate", zoo / "a", "--tasks", tasks[0], "--results", tmp_path / "r", "--quiet").out == ""


def test_two_tasks_of_one_name(zoo, write, tmp_path):
    (tmp_path / "x").mkdir()
    tasks = [write(texts(1)), write(texts(2), "x/task.jsonl")]
    with pytest.raises(TaskError, match="two tasks are named 'task'"):
        mergery.evaluate(zoo / "a", tasks)
