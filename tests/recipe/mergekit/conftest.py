"""Reading mergekit files in tests: text in, recipe or messages out. No model is opened and no mergekit is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mergery.errors import MergeryError, Problems
from mergery.recipe import Recipe
from mergery.recipe.reading import load_recipe

Read = Callable[[str], Recipe]
Refuse = Callable[[str], list[str]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The recipe of a mergekit file that stands in an empty folder."""

    def run(text: str) -> Recipe:
        path = tmp_path / "config.yml"
        path.write_text(text)
        return load_recipe(path)

    return run


@pytest.fixture
def refuse(tmp_path: Path) -> Refuse:
    """The messages with which a mergekit file is refused, each from its line and column on."""

    def run(text: str) -> list[str]:
        path = tmp_path / "config.yml"
        path.write_text(text)
        with pytest.raises(MergeryError) as caught:
            load_recipe(path)
        error = caught.value
        errors = error.errors if isinstance(error, Problems) else (error,)
        return [str(each).removeprefix(f"{path}:") for each in errors]

    return run
