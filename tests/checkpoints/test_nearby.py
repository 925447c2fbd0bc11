"""A path at which there is nothing is answered with what was perhaps meant, spelled as it was."""

from __future__ import annotations

import pytest

from mergery import api
from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.nearby import near_path
from mergery.errors import MergeryError


def test_the_neighbour_is_spelled_as_the_path_is(tmp_path, monkeypatch):
    (tmp_path / "models/llama").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert near_path("models/lama") == "models/llama"
    assert near_path("./modles/llama") == "./models"  # the first part that is wrong
    assert near_path("../models/lama/", tmp_path / "recipes/../models/lama") == "../models/llama"
    assert near_path("zzz") == ""
    assert near_path("zzz/yyy/xxx") == ""


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("$HOME/model", "  try: variables of the shell are not looked up: write the path out, or ~ for your home"),
        (r"C:\models\llama", "  try: put / between folders"),
        ("./zzz", "  why: it is looked up from '{folder}'\n  try: check the path"),
    ],
)
def test_a_path_to_nothing_says_what_is_wrong_with_it(path, says, tmp_path):
    with pytest.raises(MergeryError, match="there is no such file or folder") as caught:
        open_checkpoint(path, relative_to=tmp_path)
    assert says.format(folder=tmp_path) in str(caught.value)


def test_a_recipe_is_pointed_to_where_it_names_the_model(llamas, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"models:\n  a: {llamas}/a\n  b: ./bb\nmerge: {{method: linear}}\n")
    (tmp_path / "b").mkdir()
    with pytest.raises(MergeryError) as caught:
        api.plan(recipe)
    assert str(caught.value).startswith(f"{recipe}:3:6: ./bb: there is no such file or folder\n")


def test_a_recipe_in_the_place_of_a_model_is_told_by_its_command(tmp_path):
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(MergeryError, match=r"mergery plan .*recipe\.yaml` says what a recipe does"):
        open_checkpoint(tmp_path / "recipe.yaml")
