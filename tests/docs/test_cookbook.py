"""Every recipe of the cookbook is cooked, in a kitchen of its own."""

from __future__ import annotations

import re

import pytest

from tests.cli.test_end_to_end import load
from tests.docs.pages import blocks, read, run, sections

RECIPES = sections(read("docs/cookbook.md"))


@pytest.mark.parametrize("title", RECIPES)
def test_the_recipe_is_cooked(title, home, mergery):
    ran = run(blocks(RECIPES[title]), home, mergery)
    if (home / "merged").exists():
        load(home / "merged")
    assert ran or "```python" in RECIPES[title]


def test_there_are_at_least_twenty_five_and_they_are_counted():
    assert len(RECIPES) >= 25
    assert [int(re.match(r"\d+", title)[0]) for title in RECIPES] == list(range(1, len(RECIPES) + 1))


def test_each_is_short():
    for title, text in RECIPES.items():
        assert len(text.splitlines()) <= 35, title
