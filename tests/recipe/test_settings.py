"""Values that can be meant in two ways, or mean nothing, are refused with what was meant."""

from __future__ import annotations

import re

import pytest
import yaml

from mergery.errors import MergeryError
from mergery.method import methods
from mergery.recipe.document import read_documents
from mergery.recipe.reading import load_recipe
from mergery.recipe.values import Constant, Gradient

THREE = "models: {base: ./base, math: ./math, code: ./code}\n"
TWO = "models: {math: ./math, code: ./code}\n"


def problem(text: str) -> MergeryError:
    with pytest.raises(MergeryError) as caught:
        load_recipe(text)
    return caught.value


def tried(text: str, wrong: str) -> list[str]:
    """What the hint says to write in place of `wrong`: everything in it that reads `weight: {...}` or the like."""
    found = re.findall(r"(?:weight|density|value): \{.*?\}(?= if| for|$)", problem(text).hint)
    assert found, problem(text)
    return [text.replace(wrong, each) for each in found]


@pytest.mark.parametrize(
    ("merge", "wrong"),
    [
        ("{method: linear, weight: [0.3, 0.7]}", "weight: [0.3, 0.7]"),
        ("{method: ties, base: base, density: [0.3, 0.7], scope: tensor}", "density: [0.3, 0.7]"),
        ("{method: slerp, weight: [0.3, 0.7]}", "weight: [0.3, 0.7]"),
    ],
)
def test_a_list_as_long_as_the_models_is_refused_with_both_ways_to_say_it(merge, wrong):
    text = (THREE if "base" in merge else TWO) + f"merge: {merge}\n"
    name = wrong.split(":")[0]
    assert problem(text).what == f"{name} is a list of 2 values, and 2 models are merged"
    by_model, gradient = (load_recipe(each).merge.settings[name] for each in tried(text, wrong))
    assert by_model.plain() == {"math": 0.3, "code": 0.7}
    assert gradient == Gradient((0.3, 0.7))


@pytest.mark.parametrize(
    "text",
    [
        TWO + "merge: {method: linear, weight: [{where: {role: mlp}, value: [0.3, 0.7]}, {value: 1}]}\n",
        TWO + "merge: {method: slerp, t: 0.5, parts: [{where: {role: norm}, method: linear, weight: [0.3, 0.7]}]}\n",
        TWO + "merge: {method: linear, stack: [{models: {math: 0-1, code: 0-1}, weight: [0.3, 0.7]}]}\n",
        TWO + "merge: {method: linear, stack: [{models: {math: 0-1, code: 0-1}}], weight: [0.3, 0.7]}\n",
        "models: {a: ./a, b: ./b, ab: {method: linear, models: [a, b], weight: [0.3, 0.7]}}\n"
        "merge: {method: passthrough, models: [ab]}\n",
    ],
)
def test_it_is_refused_wherever_it_stands(text):
    assert "is a list of 2 values, and 2 models are merged" in str(problem(text))
    assert "{gradient: [0.3, 0.7]}" in problem(text).hint
    load_recipe(text.replace("[0.3, 0.7]", "{gradient: [0.3, 0.7]}"))


@pytest.mark.parametrize(
    "merge",
    [
        "{method: linear, weight: [0, 0.5, 1]}",  # three points for two models are a gradient
        "{method: slerp, t: [0, 1]}",  # all models share it
        "{method: linear, weight: {math: [0, 1], code: [1, 0]}}",  # of one model
        "{method: passthrough, models: [math], scale: [0.5]}",
    ],
)
def test_a_list_that_can_only_be_a_gradient_is_one(merge):
    text = (TWO.replace(", code: ./code", "") if "passthrough" in merge else TWO) + f"merge: {merge}\n"
    recipe = load_recipe(text)
    assert any("Gradient" in repr(value) for value in recipe.merge.settings.values())


def test_a_gradient_that_says_its_name_is_written_with_it():
    recipe = load_recipe(TWO + "merge: {method: linear, weight: {gradient: [0.3, 0.7]}}\n")
    assert recipe.plain()["merge"]["weight"] == {"gradient": [0.3, 0.7]}
    assert load_recipe(yaml.safe_dump(recipe.plain())) == recipe


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("density: 80", "did you mean 0.8?"),
        ("density: 20%", "did you mean 0.2?"),
        ("density: '0.2'", "density: 0.2, without quotes"),
        ("density: -0.1", "such as density: 0.2"),
        ("density: 1.5", "such as density: 0.2"),
        ("density: most", "such as density: 0.2"),
        ("weight: heavy", "such as weight: 1.0"),
        ("scale: .nan", "such as scale: 1.0"),
        ("scope: tensors", "did you mean 'tensor'?"),
    ],
)
def test_what_a_value_was_meant_to_be(setting, hint):
    assert problem(THREE + f"merge: {{method: ties, base: base, {setting}}}\n").hint == hint


@pytest.mark.parametrize(
    ("t", "hint"), [("50", "did you mean 0.5?"), ("-30", "such as t: 0.5"), ("2.5", "such as t: 0.5")]
)
def test_the_way_between_two_models_is_no_percentage(t, hint):
    found = problem(TWO + f"merge: {{method: slerp, t: {t}}}\n")
    assert (found.what, found.why, found.hint) == (f"t is {t}", "t must lie in [-1, 2]", hint)
    assert load_recipe(TWO + "merge: {method: slerp, t: 1.25}\n").merge.settings["t"] == Constant(1.25)


def test_every_setting_of_every_method_says_what_to_try():
    for each in methods().values():
        for setting in each.settings.values():
            for wrong in ("nonsense", [1], 10**6, float("nan"), {"a": 1}):
                try:
                    setting.check(wrong)
                except MergeryError as error:
                    assert error.hint, (each.name, setting.name, wrong)
            (example,) = read_documents(setting.example(), "example")
            setting.check(example.data)
