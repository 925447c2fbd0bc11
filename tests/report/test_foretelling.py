"""What the comparison foretells: straight lines, worked by hand where they are short."""

from __future__ import annotations

import pytest

from mergery.report import foretold
from mergery.report.foretelling import foretell

MIDDLE: dict[str, float] = dict(zip(foretold.MEASURES, foretold.CENTER, strict=True))


def test_in_the_middle_of_all_that_was_seen_the_first_numbers_decide() -> None:
    told = foretell(MIDDLE)
    first = {name: line[0] * 1e-4 for name, line in foretold.LINES.items()}
    assert dict(told.behind) == pytest.approx(first, abs=1e-4)
    assert next(iter(told.behind)) == min(first, key=lambda name: first[name])
    assert not told.outside


def test_one_spread_more_of_a_measure_adds_its_number() -> None:
    place = foretold.MEASURES.index("size")
    told = foretell(MIDDLE | {"size": foretold.CENTER[place] + foretold.SPREAD[place]})
    line = foretold.LINES["linear"]
    assert told.behind["linear"] == pytest.approx(1e-4 * (line[0] + line[1 + place]), abs=1e-4)


def test_where_a_measure_was_never_seen_no_line_is_followed_and_that_is_said() -> None:
    place = foretold.MEASURES.index("size")
    told, most = foretell(MIDDLE | {"size": 40.0}), foretell(MIDDLE | {"size": foretold.HIGH[place]})
    assert told.behind == most.behind
    assert told.outside == ("size",)
    assert next(iter(told.behind)) == foretold.ONE
    assert any(f"nothing is foretold, and {foretold.ONE} is the method" in line for line in told.words)


def test_what_it_was_worth_on_a_real_model_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foretold, "REAL", (1, 0.125, 0.25, 0.5))
    said = "in 1 group of its five adapters: 0.125 behind, one method for all 0.250, one at random 0.500"
    assert any(said in line for line in foretell(MIDDLE).words)
    monkeypatch.setattr(foretold, "REAL", None)
    assert not any("real model" in line for line in foretell(MIDDLE).words)
