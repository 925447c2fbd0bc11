"""Fronts and knees by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mergery.exploration.pareto import front, knee
from tests.exploration.test_soups import texts

__all__ = ["texts"]


def test_what_none_beats_in_all() -> None:
    points = np.array([[1, 5], [2, 4], [2, 3], [5, 1], [0, 0], [2, 4]])
    assert front(points) == [0, 1, 3]


def test_the_knee_stands_out_over_the_line_through_the_ends() -> None:
    points = np.array([[0.0, 10.0], [4.0, 9.0], [7.0, 4.0], [10.0, 0.0]])
    assert knee(points) == 1
    assert knee(points * [1.0, 1000.0]) == 1  # whatever the units


def test_a_front_from_the_command_line(mergery: Any, zoo: Path, texts: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in texts.read_text().splitlines()]
    for name in ("a", "b"):
        own = [json.dumps(line) for line in lines if line["category"] == name] * 1
        (tmp_path / f"{name}.jsonl").write_text("\n".join(own) + "\n")
    models = "".join(f"  {name}: {zoo / name}\n" for name in ("base", "a", "b"))
    (tmp_path / "open.yaml").write_text(
        f"models:\n{models}merge:\n  method: task_arithmetic\n  base: base\n  scale: 1\n"
        "  weight: {search: [0.0, 1.2], per: model}\n"
    )
    tasks = ("--tasks", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--seed", "1")
    done = mergery("search", tmp_path / "open.yaml", tmp_path / "out", *tasks, "--pareto", "--trials", "24")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "out" / "search.json").read_text())
    assert all(set(each["goals"]) == {"a", "b"} for each in record["finalists"])
    assert (tmp_path / "out" / "front.png").stat().st_size > 1000
    assert "(chosen)" in done.out
    one = mergery("search", tmp_path / "open.yaml", tmp_path / "one", "--tasks", tmp_path / "a.jsonl", "--pareto")
    assert one.code == 2
    assert "there is one goal" in one.err
