"""The zoo in miniature: it trains, merges, scores and writes its page; and it knows when a method has broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.pages import figures
from benchmarks.zoo import foretelling
from benchmarks.zoo.cases import groups
from benchmarks.zoo.learnt import MEASURES, Cases, always, held_out, never_bad, rule
from benchmarks.zoo.report import page, told
from benchmarks.zoo.rows import LEFT_OUT, ROWS, Row
from benchmarks.zoo.summary import Line, agreement, broken, gain, margin, rank_correlation

from mergery.method import methods

ROOT = Path(__file__).resolve().parents[2]


def line(name: str, *chosen: float) -> Line:
    return Line(name, "sparse", chosen, chosen, chosen, chosen, chosen, 0.0, 1, {}, 0.0)


def test_the_miniature(tmp_path):
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.zoo", "--quick", "--seeds", "1", "--cache", tmp_path, "--write", page]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    text = page.read_text()
    assert "| `task_arithmetic` | task arithmetic | **" in text
    for section in ("## Defaults", "## Between worlds", "## Advice from diagnosis", "### Negation"):
        assert section in text
    assert "nan" not in text
    assert page.with_suffix(".png").stat().st_size > 10_000


def test_the_page_and_the_advice_are_those_of_the_figures():
    results, path = figures("zoo"), ROOT / "docs/which-method.md"
    hint = "run: python -m benchmarks.zoo --page"
    assert page(results, path) == path.read_text(), hint
    assert told(results) == (ROOT / "src/mergery/report/advised.py").read_text(), hint
    assert foretelling.source(results) == (ROOT / foretelling.PLACE).read_text(), hint


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


def test_a_grid_goes_on_where_its_end_is_best():
    row = Row("sparse", "ties", {"density": (0.2, 0.5), "scale": (1.0, 2.0)})
    tried = list(row.candidates())
    assert list(row.beyond({"density": 0.5, "scale": 2.0}, tried)) == [{"density": 0.5, "scale": 4.0}]
    assert list(row.beyond({"density": 0.2, "scale": 1.0}, tried)) == [{"density": 0.2, "scale": 0.5}]
    assert list(row.beyond({}, tried)) == []


def test_groups_of_experts():
    found = groups(tuple("abcdefg"))
    assert found == [("a", "b"), ("c", "d"), ("e", "f"), ("a", "b", "c", "d"), ("d", "e", "f", "g"), tuple("abcdefg")]


def made(worlds: list[str], inputs: list[float], scores: list[list[float]]) -> Cases:
    measures = np.zeros((len(worlds), len(MEASURES)))
    measures[:, MEASURES.index("inputs")] = inputs
    return Cases(np.array(worlds), measures, np.array(scores), ("plain", "bold"))


def test_a_rule_that_holds_on_worlds_it_has_not_seen():
    cases = made(list("aabbcc"), [0.1, 0.9, 0.2, 0.8, 0.1, 0.7], [[0.5, 0.9], [0.8, 0.6]] * 3)
    found = rule(cases)
    assert MEASURES[found.measure] == "inputs"
    assert (found.below, found.above) == (1, 0)
    assert held_out(cases, rule)[0].tolist() == [0.0] * 6
    assert held_out(cases, always)[0].mean() > 0.0


def test_never_bad_is_not_best_on_average():
    cases = made(list("abc"), [0.0] * 3, [[0.8, 0.9], [0.8, 0.9], [0.8, 0.65]])
    assert cases.methods[always(cases)(cases.measures[0])] == "bold"
    assert cases.methods[never_bad(cases)(cases.measures[0])] == "plain"


def test_agreement_of_two_worlds():
    one = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "only": 1.0}
    mean, low, high = agreement(one, {name: 2.0 * one[name] for name in "abcd"})
    assert mean == low == high == pytest.approx(1.0)


def test_every_method_is_compared_or_left_out_for_a_reason():
    compared = {name for row in ROWS for name in (row.method, row.first.get("method"))} - {None}
    assert compared | set(LEFT_OUT) == set(methods())
    assert not compared & set(LEFT_OUT)


def test_ranks_that_agree_and_ranks_that_do_not():
    assert rank_correlation([line("a", 0.3, 0.5), line("b", 0.2, 0.4), line("c", 0.1, 0.1)]) == pytest.approx(1.0)
    assert rank_correlation([line("a", 0.3, 0.1), line("b", 0.2, 0.2), line("c", 0.1, 0.3)]) == pytest.approx(-1.0)


def test_a_gain_is_paired():
    mean, half = gain((0.9, 0.5, 0.7), (0.8, 0.4, 0.6))
    assert mean == pytest.approx(0.1)
    assert half == pytest.approx(0.0, abs=1e-12)


def test_a_margin_is_at_least_the_noise_of_the_items():
    assert margin([0.5, 0.5, 0.5], items=100) == pytest.approx(1.96 * np.sqrt(0.25 / 300))
    assert margin([0.4, 0.5, 0.6], items=10_000) == pytest.approx(4.30 * 0.1 / 3**0.5)


def test_a_method_that_has_lost_more_than_its_margin_is_broken():
    record = {"digits": {"ties": [0.9, 0.02], "gone": [0.8, 0.02]}}
    assert broken({"digits": {"ties": [0.885, 0.0], "gone": [0.9, 0.0]}}, record) == []
    wrong = broken({"digits": {"ties": [0.87, 0.0]}}, record)
    assert wrong == ["digits: ties scores 0.870; the record is 0.900 ± 0.020", "digits: gone is gone"]
