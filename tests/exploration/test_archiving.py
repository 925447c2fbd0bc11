"""What a search by quality and diversity tells of its archives, by hand and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mergery.exploration.candidates import Candidate
from mergery.exploration.sampling.archiving import Archive, Filled, filled
from tests.exploration.test_soups import texts
from tests.exploration.test_study import space

__all__ = ["texts"]


def test_a_map_of_two_tasks_is_a_line_and_of_three_a_square() -> None:
    line = Archive("math", ("code",), ((0.0, 1.5),), 0.9, (Filled((0,), 4, 0.1), Filled((14,), 2, 0.8)))
    assert line.coverage == 2 / 15
    assert line.words == [
        "archive of math: 2 of 15 cells, QD score 0.9000, best 0.8000 (candidate 3)",
        "  code 0 to 1.5:",
        "  1 . . . . . . . . . . . . . 9",
    ]
    square = Archive("math", ("code", "chat"), ((0.0, 1.0),) * 2, 0.5, (Filled((1, 14), 0, 0.5),))
    assert square.coverage == 1 / 225
    assert square.words[1:3] == ["  code 0 to 1 by chat 0 to 1:", "  . 9" + " ." * 13]
    assert len(square.words) == 2 + 15
    many = Archive("math", ("code", "chat", "law"), ((0.0, 1.0),) * 3, 0.5, (Filled((1, 1, 1), 0, 0.5),))
    assert len(many.words) == 1


def test_the_quality_of_archives_by_hand(tmp_path: Path) -> None:
    """Four candidates span the bins: 0.85 times the least score, 1.15 times the largest. A score below adds nothing."""
    goals = ((0.2, 0.8), (0.4, 0.1), (0.9, 0.9), (0.2, 0.1), (0.1, 0.5))
    history = [Candidate(number, {}, sum(own) / 2, goals=own) for number, own in enumerate(goals)]
    first, second = filled(space(tmp_path), ["one", "two"], history)
    assert (first.task, first.others, second.others) == ("one", ("two",), ("one",))
    assert first.spans == (pytest.approx((0.085, 1.035)),)
    told = {each.bins: (each.candidate, each.score) for each in first.cells}
    assert told == {(11,): (0, 0.2), (0,): (1, 0.4), (12,): (2, 0.9), (6,): (4, 0.1)}
    assert first.quality == pytest.approx(0.03 + 0.23 + 0.73 + 0.0)
    assert first.plain()["cells"][0] == {"bins": [0], "candidate": 1, "score": 0.4}


def test_directions_from_the_command_line(mergery: Any, zoo: Path, texts: Path, tmp_path: Path) -> None:
    """The leading directions of each fine-tune have a weight of their own; what is found merges and loads as any recipe."""
    lines = [json.loads(line) for line in texts.read_text().splitlines()]
    for name in ("a", "b"):
        own = [json.dumps(line) for line in lines if line["category"] == name]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(own) + "\n")
    models = "".join(f"  {name}: {zoo / name}\n" for name in ("base", "a", "b"))
    stages = "".join(
        f"  {name}-top: {{method: truncate, base: base, models: [{name}], share: 0.25}}\n" for name in ("a", "b")
    )
    (tmp_path / "open.yaml").write_text(
        f"models:\n{models}{stages}merge:\n  method: task_arithmetic\n  base: base\n  models: [a, a-top, b, b-top]\n"
        "  scale: 1\n  weight: {search: [0.0, 1.2], per: model}\n"
    )
    tasks = ("--tasks", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--seed", "1")
    command = ("search", tmp_path / "open.yaml", tmp_path / "out", *tasks, "--pareto", "--sampler", "cycle")
    done = mergery(*command, "--trials", "9")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "search.json").read_text())
    assert list(record["candidates"][0]["values"]) == [f"weight.{name}" for name in ("a", "a-top", "b", "b-top")]
    assert [each["task"] for each in record["archives"]] == ["a", "b"]
    for each in record["archives"]:
        assert (
            f"archive of {each['task']}: {len(each['cells'])} of 15 cells, QD score {each['quality']:.4f}" in done.out
        )
        assert each["coverage"] == len(each["cells"]) / 15
    merged = mergery("merge", tmp_path / "out" / "recipe.yaml", tmp_path / "merged")
    assert merged.code == 0, merged.err
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
