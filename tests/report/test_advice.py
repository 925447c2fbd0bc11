"""What `mergery plan` says of a method that the comparison found to fall below the base."""

from __future__ import annotations

import json

import pytest

from mergery.method import methods
from mergery.report.advice import what_won
from mergery.report.advised import BELOW, SAFE, WORLDS

MODELS = "models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}\n"
ONE = "models: {base: {llamas}/base, a: {llamas}/a}\n"


def advice(mergery, recipe, merge: str, models: str = MODELS) -> list[str]:
    outcome = mergery("plan", recipe(models + merge), "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["advice"]


@pytest.fixture
def fallen(monkeypatch):
    """As if a method had fallen below the base in a world."""
    monkeypatch.setattr("mergery.report.advice.BELOW", {"tsv_merge": WORLDS[:1]})


def test_no_method_falls_below_the_base_with_nothing_set():
    assert BELOW == {}


def test_a_method_that_fell_and_the_command_that_tells_more(mergery, recipe, llamas, fallen):
    [text] = advice(mergery, recipe, "merge: {method: tsv_merge, base: base}\n")
    assert f"tsv_merge, with nothing set, fell below the base in 1 of {len(WORLDS)} worlds" in text
    assert all(name in text for name in SAFE)
    command = text[text.index("mergery inspect") :].split()
    assert command == ["mergery", "inspect", *(str(llamas / name) for name in ("base", "a", "b")), "--interference"]
    assert mergery(*command[1:]).code == 0
    shown = mergery("plan", recipe(MODELS + "merge: {method: tsv_merge, base: base}\n")).out
    assert "advice: tsv_merge, with nothing set" in " ".join(shown.split())


def test_nothing_is_said_where_a_scale_is_set_or_little_is_merged(mergery, recipe, fallen):
    assert advice(mergery, recipe, "merge: {method: tsv_merge, base: base, scale: 0.5}\n") == []
    assert advice(mergery, recipe, "merge: {method: tsv_merge, base: base}\n", ONE) == []
    assert advice(mergery, recipe, "merge: {method: linear, base: base}\n") == []


def test_it_speaks_of_methods_that_there_are():
    assert {*BELOW, *SAFE} <= {*methods()}
    assert not {*BELOW} & {*SAFE}
    assert all(set(worlds) <= set(WORLDS) for worlds in BELOW.values())


def test_what_did_best_goes_by_one_measure(monkeypatch):
    monkeypatch.setattr("mergery.report.advice.RULE", ("inputs", 0.1, "linear", "swudi_a"))
    assert "where the overlap of the inputs that they read is 0.1 or more, swudi_a did best" in what_won(
        {"inputs": 0.1}
    )
    assert "is less than 0.1, linear did best" in what_won({"inputs": 0.09})
    monkeypatch.setattr("mergery.report.advice.RULE", None)
    assert what_won({"inputs": 0.1}) == ""
