"""The zoo in miniature: it trains, merges, scores and writes its page; and it knows when a method has broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.zoo.rows import LEFT_OUT, ROWS, Row
from benchmarks.zoo.summary import Line, broken, gain, margin, rank_correlation

from mergery.method import methods

ROOT = Path(__file__).resolve().parents[2]


def line(name: str, *chosen: float) -> Line:
    return Line(name, "sparse", chosen, chosen, chosen, chosen, 0.0, 1, {}, 0.0)


def test_the_miniature(tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.zoo", "--quick", "--seeds", "1", "--cache", tmp_path, "--write", page]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = page.read_text()
    assert "| `task_arithmetic` | task arithmetic | **" in text
    assert "### Negation" in text
    assert page.with_suffix(".png").stat().st_size > 10_000


def test_a_row_is_its_defaults_and_its_grid():
    row = Row("sparse", "ties", {"density": (0.2, 0.5), "scale": (1.0, 2.0)})
    assert [dict(settings) for settings in row.candidates()] == [
        {},
        {"density": 0.2, "scale": 1.0},
        {"density": 0.2, "scale": 2.0},
        {"density": 0.5, "scale": 1.0},
        {"density": 0.5, "scale": 2.0},
    ]
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_every_method_is_compared_or_left_out_for_a_reason():
    assert {row.method for row in ROWS} | set(LEFT_OUT) == set(methods())
    assert not {row.method for row in ROWS} & set(LEFT_OUT)


def test_ranks_that_agree_and_ranks_that_do_not():
    assert rank_correlation([line("a", 0.3, 0.5), line("b", 0.2, 0.4), line("c", 0.1, 0.1)]) == pytest.approx(1.0)
    assert rank_correlation([line("a", 0.3, 0.1), line("b", 0.2, 0.2), line("c", 0.1, 0.3)]) == pytest.approx(-1.0)


def test_a_gain_is_paired():
    better, worse = line("a", 0.9, 0.5, 0.7), line("b", 0.8, 0.4, 0.6)
    mean, half = gain(better, worse)
    assert mean == pytest.approx(0.1)
    assert half == pytest.approx(0.0, abs=1e-12)


def test_a_margin_is_at_least_the_noise_of_the_items():
    assert margin([0.5, 0.5, 0.5], items=100) == pytest.approx(1.96 * np.sqrt(0.25 / 300))
    assert margin([0.4, 0.6], items=10_000) == pytest.approx(12.71 * 0.1)


def test_a_method_that_has_lost_more_than_its_margin_is_broken():
    record = {"digits": {"ties": [0.9, 0.02], "gone": [0.8, 0.02]}}
    assert broken({"digits": {"ties": [0.885, 0.0], "gone": [0.9, 0.0]}}, record) == []
    wrong = broken({"digits": {"ties": [0.87, 0.0]}}, record)
    assert wrong == ["digits: ties scores 0.870; the record is 0.900 ± 0.020", "digits: gone is gone"]
