"""A choice made for the user: what it says of planted cases, and how it behaves on the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mergery.errors import DataError, RecipeError
from mergery.evaluation.results import Evaluation, Outcome, TaskResult
from mergery.evaluation.task import METRICS
from mergery.exploration.automatic.contest import Clock, Entry, judge
from mergery.exploration.automatic.diagnosis import recommend
from mergery.exploration.automatic.options import AutoOptions, parse_budget
from mergery.exploration.automatic.running import _Contest
from mergery.exploration.parallel.asking import Office
from mergery.report.advised import SAFE
from mergery.report.foretold import ONE
from tests.exploration.test_soups import texts

__all__ = ["texts"]


def found(name: str, solved: Sequence[int]) -> Evaluation:
    items = tuple(Outcome(str(number), "", {"accuracy": float(value)}) for number, value in enumerate(solved))
    task = TaskResult(name, name, "quiz", "hash", "choice", METRICS["choice"][:1], items)
    return Evaluation(name, name, (task,))


def entry(name: str, *, merged: bool) -> Entry:
    return Entry(name, {}, merged, 0.0, 0.0)


def coins(seed: int, share: float, count: int = 200) -> list[int]:
    return (np.random.default_rng(seed).uniform(size=count) < share).astype(int).tolist()


def test_a_merge_that_wins_beyond_chance_is_recommended() -> None:
    one, other = coins(0, 0.5), coins(1, 0.5)
    both = [max(pair) for pair in zip(one, other, strict=True)]
    entries = [(entry("a", merged=False), found("a", one)), (entry("b", merged=False), found("b", other))]
    verdict = judge([*entries, (entry("ties", merged=True), found("ties", both))], 0)
    assert verdict.merge
    assert verdict.chosen.gain_low > 0
    assert verdict.words.startswith("merge with ties")


def test_where_the_best_model_is_as_good_the_answer_is_not_to_merge() -> None:
    """The merge solves two items more of 200: no more than chance."""
    one = coins(0, 0.6)
    wrong = [place for place, value in enumerate(one) if not value]
    nearly = [1 if place in wrong[:2] else value for place, value in enumerate(one)]
    entries = [(entry("a", merged=False), found("a", one)), (entry("b", merged=False), found("b", coins(1, 0.3)))]
    verdict = judge([*entries, (entry("ties", merged=True), found("ties", nearly))], 0)
    assert not verdict.merge
    assert verdict.chosen.entry.name == "a"
    assert verdict.words.startswith("do not merge: a alone is as good")
    assert verdict.judged[0].entry.name == "ties"


@pytest.mark.parametrize(("text", "minutes"), [("30m", 30), ("2h", 120), ("90s", 1.5), ("1h30m", 90), ("0.5h", 30)])
def test_budgets(text: str, minutes: float) -> None:
    assert parse_budget(text) == pytest.approx(minutes)


@pytest.mark.parametrize("text", ["30", "m", "ten minutes", "5d"])
def test_slips_in_a_budget(text: str) -> None:
    with pytest.raises(RecipeError, match="budget"):
        parse_budget(text)


def test_a_clock_counts_down() -> None:
    times = iter((10.0, 40.0, 130.0))
    clock = Clock(100.0, lambda: next(times))
    assert clock.left == 70
    assert clock.left == -20


def test_a_model_or_a_merge_that_answers_with_nan_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(self: _Contest, name: str, recipe: Any, *, merged: bool) -> Entry:
        if name in ("a", "ties"):
            raise DataError("the model answers with NaN")
        return entry(name, merged=merged)

    contest: Any = object.__new__(_Contest)
    contest.sources, contest.skipped = {"base": "base", "a": "a", "b": "b"}, {}
    contest.office, contest.options, contest.splits = Office(), AutoOptions(), SimpleNamespace(search=())
    monkeypatch.setattr(_Contest, "entry", answers)
    monkeypatch.setattr(_Contest, "in_time", lambda self, merge: merge[0] in ("linear", "ties"))
    assert contest.alone("a") is None and contest.alone("b") is not None
    assert [each.name for each in contest.merges()] == ["linear"]
    assert contest.skipped == dict.fromkeys(("a", "ties"), "the model answers with NaN")


def test_all_of_it_from_the_command_line(mergery: Any, zoo: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "chosen"
    command = ("auto", zoo / "base", zoo / "a", zoo / "b", "--tasks", texts, "--out", out, "--budget", "6s")
    done = mergery(*command)
    assert done.code == 0, done.err
    record = json.loads((out / "auto.json").read_text())
    names = {each["name"] for each in record["tried"]}
    assert {"a", "b", "linear"} <= names
    assert record["verdict"] in done.out
    assert {"a", "b"} <= {each["name"] for each in record["judged"]}
    assert mergery("merge", out / "recipe.yaml", tmp_path / "merged").code == 0
    (out / ".lock").write_text("choice")  # one that was scored is not overwritten by one that was not
    again = mergery("auto", zoo / "base", zoo / "a", zoo / "b", "--no-tasks", "--out", out)
    assert again.code == 2 and "it holds a choice" in again.err


def test_models_that_do_not_belong_together_are_refused_first(
    mergery: Any, zoo: Path, texts: Path, tmp_path: Path
) -> None:
    done = mergery("auto", zoo / "base", zoo / "a", tmp_path / "b", "--tasks", texts, "--out", tmp_path / "out")
    assert done.code == 2
    assert not (tmp_path / "out" / "auto.json").exists()
    done = mergery("auto", zoo / "base", zoo / "a", "--tasks", texts, "--out", tmp_path / "out")
    assert done.code == 2
    assert "two models or more" in done.err


@pytest.mark.parametrize("command", [("auto",), ("flow",)])
def test_without_tasks_there_is_one_message(mergery: Any, zoo: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    done = mergery(*command, zoo / "base", zoo / "a", zoo / "b", "--tasks", "--out", tmp_path / "out")
    assert done.code == 2
    assert "there is no task" in done.err
    assert not (tmp_path / "out").exists()


def test_without_tasks_a_method_is_recommended_with_how_sure_that_is(mergery: Any, zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "chosen"
    done = mergery("auto", zoo / "base", zoo / "a", zoo / "b", "--no-tasks", "--out", out)
    assert done.code == 0, done.err
    record = json.loads((out / "auto.json").read_text())
    method = record["method"]
    assert record["outside"] and method == ONE  # tiny models are like none of the comparison
    assert f"method: {method}" in (out / "recipe.yaml").read_text()
    assert "nothing was scored" in done.out
    assert "how sure" in done.out
    assert mergery("merge", out / "recipe.yaml", tmp_path / "merged").code == 0


@pytest.mark.parametrize(
    ("options", "said"), [((), "there is no task"), (("--no-tasks", "--tasks", "quiz.jsonl"), "do not go together")]
)
def test_tasks_or_none_and_not_both(
    mergery: Any, zoo: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = mergery("auto", zoo / "base", zoo / "a", zoo / "b", "--out", tmp_path / "out", *options)
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_models_without_matrices_get_a_safe_method(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    for place, name in enumerate(("base", "a", "b")):
        (tmp_path / name).mkdir()
        save_file({"bias": np.full(8, place, np.float32)}, tmp_path / name / "model.safetensors")
    told = recommend(str(tmp_path / "base"), [str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "out")
    assert told.method in SAFE
    assert told.words[1].startswith("nothing could be measured")
