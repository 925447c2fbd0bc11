"""The pages of reference are what the program is, and every key of a recipe has its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from benchmarks.reference.__main__ import DOCS, PAGES

from mergery.method import methods
from mergery.recipe.schema import recipe_schema
from tests.docs.pages import read


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_program_is(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    assert PAGES[name](text) == text, "run: python -m benchmarks.reference"


def keys(schema: Any, root: Any, seen: set[int]) -> Iterator[str]:
    """The names of all keys that a schema knows, the settings of methods left out."""
    if isinstance(schema, list):
        for each in schema:
            yield from keys(each, root, seen)
    if not isinstance(schema, dict) or id(schema) in seen:
        return
    seen.add(id(schema))
    for name, value in schema.get("properties", {}).items():
        yield name
        yield from keys(value, root, seen)
    for word, value in schema.items():
        if word not in ("properties", "default", "const", "enum"):
            yield from keys(value, root, seen)


def test_every_key_of_a_recipe_has_its_line():
    schema = recipe_schema()
    settings = {name for method in methods().values() for name in method.settings}
    found = {name for name in keys(schema, schema, set()) if not name.startswith("$")}
    page = read("docs/recipe.md")
    told = set(re.findall(r"^\| `(\w+)` \|", page, re.M)) | {"gradient", "outside", "omp"}
    assert found - settings - told == set(), "say in docs/recipe.md what they are"
    assert "`{gradient: [...], outside: first}`" in page
    assert "`omp` is the number" in page


def test_no_line_is_for_a_key_that_is_gone():
    schema = recipe_schema()
    found = set(keys(schema, schema, set()))
    assert set(re.findall(r"^\| `(\w+)` \|", read("docs/recipe.md"), re.M)) - found == set()
