"""The page of methods says what the methods say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mergery.method import methods
from mergery.method.catalogue import FIRST, GROUPS, example, occasion, page
from mergery.recipe.reading import load_recipe


def test_the_page_is_up_to_date():
    written = (Path(__file__).parents[2] / "docs/methods.md").read_text()
    assert written == page(), "run: python -m benchmarks.reference"


def test_every_method_is_in_one_group_and_few_are_to_know_first():
    placed = [name for names in GROUPS.values() for name in names]
    assert sorted(placed) == sorted(methods())
    assert set(FIRST) <= set(placed)
    assert len(FIRST) <= 8


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_example_is_a_recipe(name):
    recipe = load_recipe(yaml.safe_load(example(methods()[name])))
    assert recipe.merge.method == name


def test_the_table_of_the_command_line(mergery):
    short, whole = mergery("methods"), mergery("methods", "--all")
    assert short.code == whole.code == 0
    assert all(name in short.out for name in FIRST)
    assert all(name in whole.out for name in methods())
    assert "statistics of the whole" in " ".join(mergery("methods", "ties").out.split())


def test_one_method_on_the_command_line(mergery):
    outcome = mergery("methods", "ties")
    assert outcome.code == 0
    for word in ("out = base + scale", "density", "0.2", "per model", "arXiv 2306.01708", "Use it for", "method: ties"):
        assert word in outcome.out
    assert "out = x where importance" in mergery("methods", "arcee_fusion").out


def test_methods_for_other_programs(mergery):
    facts = {each["name"]: each for each in json.loads(mergery("methods", "--json").out)}
    assert set(facts) == set(methods())
    assert facts["emr"]["needs"] == ["a base", "a task to serve"]
    assert facts["emr"]["reads"].startswith("statistics of the whole model")
    assert facts["slerp"]["reads"].startswith("statistics of each tensor")
    assert facts["dare_linear"]["reads"] == "each tensor once"
    assert facts["nearswap"]["settings"]["t"]["required"]


def test_a_method_that_is_none(mergery):
    outcome = mergery("methods", "tise")
    assert outcome.code == 2
    assert "unknown method 'tise'" in outcome.err and "did you mean 'ties'" in outcome.err


@pytest.mark.parametrize("name", sorted(methods()))
def test_the_table_says_when_to_use_it(name):
    assert 10 < len(occasion(methods()[name])) < 160
