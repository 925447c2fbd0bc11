"""The page of methods says what the methods say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from weft.catalogue import example, page
from weft.method import methods
from weft.reading import load_recipe


def test_the_page_is_up_to_date():
    written = (Path(__file__).parent.parent / "docs/methods.md").read_text()
    assert written == page(), "run: python -m weft.catalogue > docs/methods.md"


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_example_is_a_recipe(name):
    recipe = load_recipe(yaml.safe_load(example(methods()[name])))
    assert recipe.merge.method == name
