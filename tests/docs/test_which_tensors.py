"""docs/which-tensors.md says what the methods say, and its recipes run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mergery.method.catalogue import worked_on
from mergery.method.roles import MATRICES
from tests.cli.test_end_to_end import load
from tests.conftest import tensors_of

PAGE = (Path(__file__).parents[2] / "docs/which-tensors.md").read_text()
RECIPES = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)


def test_the_table_is_the_methods_own():
    assert worked_on() in PAGE, "run python -m benchmarks.reference"


def test_the_widest_choice_has_five_roles():
    assert len(MATRICES) == 5
    assert "Five roles are every matrix but convolutions." in PAGE


@pytest.fixture
def home(tmp_path, llamas, monkeypatch) -> Path:
    for name, source in (("llama", "base"), ("llama-math", "a"), ("llama-code", "b")):
        (tmp_path / name).symlink_to(llamas / source)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_the_recipes_run(number, home, mergery):
    (home / "recipe.yaml").write_text(RECIPES[number])
    outcome = mergery("merge", "recipe.yaml", "merged")
    assert outcome.code == 0, outcome.err
    load(home / "merged")
    assert "gets no tensor" not in mergery("plan", "recipe.yaml").out


def test_the_first_recipe_does_what_its_comments_say(home, mergery):
    (home / "recipe.yaml").write_text(RECIPES[0])
    assert mergery("merge", "recipe.yaml", "merged").code == 0
    merged, base = tensors_of(home / "merged"), tensors_of(home / "llama")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(merged[name], base[name])
    plan = mergery("plan", "recipe.yaml").out
    assert all(
        word in plan for word in ("copy of base", "ties of math, code", "tsv_merge of math, code", "density 0.3")
    )


def test_there_are_two_recipes():
    assert len(RECIPES) == 2
