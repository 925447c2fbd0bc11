"""Open values of a recipe: how they are written, what they are called, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mergery.errors import MergeryError
from mergery.recipe.reading import load_recipe
from mergery.recipe.space import Choice, Range, read_space


def written(tmp_path: Path, **merge: Any) -> dict[str, Any]:
    return {
        "models": {name: str(tmp_path / name) for name in ("base", "math", "code")},
        "merge": {"method": "ties", "base": "base", **merge},
    }


def test_values_for_each_model_role_and_point_have_names(tmp_path: Path) -> None:
    weight = {"search": [0, 1.5], "per": ["model", "role"], "points": 2}
    space = read_space(written(tmp_path, weight=weight, density={"search": [0.1, 1]}))
    names = [each.name for each in space.dimensions]
    assert names[:6] == [f"weight.math.{role}.{point}" for role in ("attention", "mlp", "rest") for point in (0, 1)]
    assert names[6:12] == [name.replace("math", "code") for name in names[:6]]
    assert names[12:] == ["density"]
    assert all(each.kind == Range(0, 1.5) for each in space.dimensions[:12])


def test_a_misspelt_range_is_named_where_it_stands_and_once(tmp_path: Path) -> None:
    with pytest.raises(MergeryError, match="serch"):
        read_space(written(tmp_path, density={"serch": [0.1, 1]}))
    with pytest.raises(MergeryError) as caught:
        read_space(written(tmp_path, weight={"search": [1.5, 0], "per": "model"}))
    assert str(caught.value).count("search is [1.5, 0]") == 1


def test_with_values_it_is_an_ordinary_recipe(tmp_path: Path) -> None:
    weight = {"search": [0, 1.5], "per": "model"}
    space = read_space(written(tmp_path, weight=weight, density={"search": [0.1, 1]}))
    values = {"weight.math": 0.25, "weight.code": 1.25, "density": 0.5}
    plain = written(tmp_path, weight={"math": 0.25, "code": 1.25}, density=0.5)
    assert space.recipe(values).plain() == load_recipe(plain).plain()


def test_choices_and_whole_numbers(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "models: {base: ./base, math: ./math, code: ./code}\n"
        "merge:\n  method: {choose: [ties, dare_ties]}\n  base: base\n  density: {search: [0.01, 1], log: true}\n"
    )
    method, density = read_space(file).dimensions
    assert method.kind == Choice(("ties", "dare_ties"))
    assert density.kind == Range(0.01, 1.0, log=True)
    assert str(density.place) == f"{file}:5:12"


@pytest.mark.parametrize(
    ("density", "said"),
    [
        ({"search": [1, 0.1]}, "the smaller one first"),
        ({"search": [0.5]}, "two numbers"),
        ({"search": [0, 1], "log": True}, "above zero"),
        ({"search": [0.1, 2]}, "density is 2"),
        ({"search": [0.1, 1], "pre": "model"}, "did you mean 'per'"),
        ({"search": [0.1, 1], "per": "tensor"}, "per is 'tensor'"),
        ({"search": [0.1, 1], "points": 1}, "points is 1"),
        ({"search": [0.5, 1], "whole": True}, "whole"),
        ({"choose": [0.1]}, "two values or more"),
        ({"choose": [0.1, 0.2], "search": [0, 1]}, "do not go together"),
    ],
)
def test_slips_are_told_with_their_place(tmp_path: Path, density: Any, said: str) -> None:
    with pytest.raises(MergeryError) as error:
        read_space(written(tmp_path, density=density))
    assert said in str(error.value)
    assert error.value.plain()[0]["try"]


def test_a_recipe_with_nothing_open_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MergeryError, match="nothing is to be searched"):
        read_space(written(tmp_path))


def test_settings_alone_can_be_open(tmp_path: Path) -> None:
    data = {**written(tmp_path), "seed": {"search": [0, 9], "whole": True}}
    with pytest.raises(MergeryError, match="'seed' cannot be searched"):
        read_space(data)


def test_a_merge_of_open_values_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MergeryError, match="still to be searched") as error:
        load_recipe(written(tmp_path, density={"search": [0.1, 1]}))
    assert "mergery search" in error.value.plain()[0]["try"]
