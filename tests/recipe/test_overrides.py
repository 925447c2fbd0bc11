"""`preset`, `rest` and `parts` as a recipe writes them: read strictly, printed whole, in the schema."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from mergery.errors import MergeryError, Problems
from mergery.method import methods
from mergery.recipe.reading import load_recipe
from mergery.recipe.schema import recipe_schema

MODELS = "models: {base: ./base, a: ./a, b: ./b}\n"
HEAD = MODELS + "merge:\n  method: {method}\n  base: base\n"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(recipe_schema())


def read(text: str, method: str = "tsv_merge"):
    return load_recipe(HEAD.replace("{method}", method) + text)


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("  preset: papr\n", "recipe:5:11", ["tsv_merge has no preset 'papr'", "it has paper", "did you mean 'paper'?"]),
        ("  preset: [paper]\n", "recipe:5:11", ["no preset ['paper']"]),
        ("  preset:\n", "recipe:5:10", ["no preset None"]),
        ("  rest: linaer\n", "recipe:5:9", ["unknown method 'linaer'", "did you mean 'linear'?"]),
        ("  rest: 5\n", "recipe:5:9", ["5 is no treatment", "a method's name, base, or {method: linear}"]),
        ("  rest: {density: 0.5}\n", "recipe:5:9", ["it names a method, or a model to take from"]),
        ("  rest: {method: ties, densty: 0.5}\n", "recipe:5:24", ["ties has no setting 'densty'", "did you mean 'density'?"]),
        ("  rest: {method: ties, where: {}}\n", "recipe:5:24", ["ties has no setting 'where'"]),
        ("  rest: {take: a, where: {}}\n", "recipe:5:19", ["unknown key 'where'"]),
        ("  rest: {take: c}\n", "recipe:5:16", ["cannot take from 'c'"]),
        ("  rest: nearswap\n", "recipe:5:9", ["nearswap merges exactly 1 model"]),
        ("  parts: []\n", "recipe:5:10", ["parts must be a list of what tensors get", "{role: [embed, head]}, take: base}"]),
        ("  parts: {where: {}}\n", "recipe:5:10", ["parts must be a list of what tensors get"]),
        ("  parts: [{take: base}]\n", "recipe:5:11", ["a part says where it is", "{where: {role: norm}, method: linear}"]),
        ("  parts: [linear]\n", "recipe:5:11", ["a part says where it is"]),
        ("  parts: [{where: {}, take: a, method: ties}]\n", "recipe:5:11", ["it names a method, or a model", "take: base"]),
        ("  parts: [{where: {}}]\n", "recipe:5:11", ["it names a method, or a model to take from"]),
        ("  parts: [{where: {}, method: tise}]\n", "recipe:5:31", ["unknown method 'tise'", "did you mean 'ties'?"]),
        ("  parts: [{where: {role: nrom}, take: a}]\n", "recipe:5:19", ["unknown role 'nrom'", "did you mean 'norm'?"]),
        ("  parts: [{where: {role: 5}, take: a}]\n", "recipe:5:19", ["role must be a word or a list of words, not 5"]),
        ("  parts: [{where: all, take: a}]\n", "recipe:5:19", ["where must be a mapping", "{role: mlp, layers: 0-7}"]),
        (f"  parts: [{{where: {{layers: '{'9' * 5000}'}}, take: a}}]\n", "recipe:5:19", ["cannot be read"]),
        ("  parts: [{where: {}, method: ties, density: 2}]\n", "recipe:5:46", ["density must lie in [0, 1]"]),
        ("  parts: [{where: {}, method: ties, densty: 1}]\n", "recipe:5:37", ["no setting 'densty'", "mean 'density'?"]),
        ("  parts: [{where: {}, method: ties, weight: {c: 1}}]\n", "recipe:5:45", ["weight names 'c', which is not merged"]),
        ("  parts: [{where: {}, take: a, density: 1}]\n", "recipe:5:32", ["unknown key 'density'"]),
        ("  parts: [{where: {}, take: baes}]\n", "recipe:5:29", ["cannot take from 'baes'", "none of the models", "'base'?"]),
        ("  parts: [{where: {}, take: }]\n", "recipe:5:29", ["cannot take from None"]),
        ("  parts: [{where: {}, method: nearswap, t: 1}]\n", "recipe:5:11", ["nearswap merges exactly 1 model"]),
    ],
)  # fmt: skip
def test_mistakes_have_a_place_and_a_reason(text, place, says):
    with pytest.raises(MergeryError) as caught:
        read(text)
    assert f"{place}: " in str(caught.value)
    assert all(part in str(caught.value) for part in says), caught.value


@pytest.mark.parametrize(
    ("merge", "place", "says"),
    [
        ("{method: ties, base: base, rest: linear}", "recipe:2:35",
         ["ties works on every tensor", "name the tensors under 'parts'"]),
        ("{method: ties, base: base, preset: paper}", "recipe:2:43", ["ties has no preset 'paper'", "it has none", "leave it"]),
        ("{method: linear, models: [a, b, base], parts: [{where: {}, method: iso_c}]}", "recipe:2:55",
         ["iso_c needs a base", "it merges differences from it"]),
        ("{method: linear, models: [a, b, base], parts: [{where: {}, take: c}]}", "recipe:2:73", ["cannot take from 'c'"]),
        ("{method: iso_c, base: base, models: [a], parts: [{where: {}, method: nearswap}]}", "recipe:2:57",
         ["nearswap needs 't'", "it has no default"]),
        ("{method: iso_c, base: a, rest: base}", "recipe:2:39",
         ["'base' says two things here", "the base is 'a'", "another name"]),
    ],
)  # fmt: skip
def test_mistakes_that_the_merge_decides(merge, place, says):
    with pytest.raises(MergeryError) as caught:
        load_recipe(MODELS + f"merge: {merge}\n")
    assert f"{place}: " in str(caught.value), caught.value
    assert all(part in str(caught.value) for part in says), caught.value


def test_there_may_be_no_base_to_take_from():
    text = "models: {x: ./x, y: ./y}\nmerge: {method: linear, parts: [{where: {}, take: base}]}\n"
    with pytest.raises(MergeryError, match=r"recipe:2:51: there is no base to take from\n.*base: <a model's name>"):
        load_recipe(text)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(Problems) as caught:
        read("  preset: x\n  rest: y\n  parts: [{where: {role: z}, take: c}, {}]\n")
    assert len(caught.value.errors) == 5


def test_the_command_line_says_so_and_ends_with_2(mergery, recipe, tmp_path):
    path = recipe(HEAD.replace("{method}", "iso_c") + "  preset: papr\n")
    for command in (("plan", path), ("merge", path, tmp_path / "out"), ("import", path)):
        outcome = mergery(*command)
        assert outcome.code == 2
        assert "recipe.yaml:5:11: iso_c has no preset 'papr'" in outcome.err
        assert "try: did you mean 'paper'?" in outcome.err
    assert not (tmp_path / "out").exists()


LLAMAS = "models: {base: {llamas}/base, a: {llamas}/a, b: {llamas}/b}\n"


def test_a_vector_is_no_matrix(mergery, recipe, tmp_path):
    path = recipe(
        LLAMAS + "merge:\n  method: linear\n  base: base\n  parts:\n  - {where: {role: norm}, method: iso_c}\n"
    )
    outcome = mergery("merge", path, tmp_path / "out")
    assert outcome.code == 2
    assert "recipe.yaml:6:5: iso_c cannot merge 'model.layers.0.input_layernorm.weight', " in outcome.err
    assert "and 4 more" in outcome.err
    assert "why: it works on matrices, and these are vectors" in outcome.err
    assert outcome.err.count("cannot merge") == 1
    path = recipe(LLAMAS + "merge: {method: iso_c, base: base, rest: tsv_merge}\n")
    assert "recipe.yaml:2:42: tsv_merge cannot merge 'model.layers.0" in mergery("plan", path).err


def test_a_slice_must_have_what_is_taken(mergery, recipe):
    text = LLAMAS + "merge:\n  parts: [{where: {role: norm}, take: b}]\n"
    text += "  stack: [{models: {a: 0-1}}, {models: {b: 0-1}}]\n"
    text = text.replace("base: {llamas}/base, ", "")
    outcome = mergery("plan", recipe(text))
    assert outcome.code == 2
    assert "recipe.yaml:3:11: 'model.layers.0.input_layernorm.weight' cannot be taken from 'b'" in outcome.err
    assert "why: no layer of it stands there" in outcome.err


@pytest.mark.parametrize("more", ["rest: linear", "parts: [{where: {role: norm}, take: base}]"])
def test_packed_models_have_no_parts(more, mergery, recipe, tmp_path):
    outcome = mergery(
        "pack", recipe(LLAMAS + f"merge: {{method: tsv_compress, base: base, {more}}}\n"), tmp_path / "out"
    )
    assert outcome.code == 2
    assert "recipe.yaml:2:8: parts of a model cannot be packed otherwise" in outcome.err
    assert "packed models keep of each tensor what their method gives, or the base's" in outcome.err
    assert "leave out 'parts' and 'rest'" in outcome.err
    assert not (tmp_path / "out").exists()


# --- printed and read again ---------------------------------------------------------------------------------------------

GOOD = [
    "  preset: paper\n",
    "  rest: base\n",
    "  rest: linear\n",
    "  rest: {take: b}\n",
    "  rest: {method: ties, density: 0.5, weight: {a: 1, b: [0, 1]}}\n",
    "  parts: [{where: {}, take: base}]\n",
    "  parts: [{where: {role: norm, layers: [0-3, '7']}, method: linear}, {where: {name: '*.q_*'}, take: a}]\n",
    "  preset: paper\n  scale: 0.5\n  rest: base\n  parts: [{where: {part: vision}, method: iso_c, preset: 1}]\n",
]


@pytest.mark.parametrize("text", GOOD[:-1])
def test_a_recipe_is_printed_whole(text, mergery, recipe):
    loaded = read(text)
    plain = loaded.plain()
    again = load_recipe(plain)
    assert again.plain() == plain
    assert again.merge == loaded.merge
    outcome = mergery("import", recipe(HEAD.replace("{method}", "tsv_merge") + text))
    assert outcome.code == 0, outcome.err
    printed = yaml.safe_load(outcome.out)
    assert printed == plain
    for key, value in yaml.safe_load("merge:\n" + text)["merge"].items():
        if not isinstance(value, (dict, list)):
            assert printed["merge"][key] == (value if key != "rest" or value == "base" else {"method": value})


@pytest.mark.parametrize("text", GOOD)
def test_schema_and_reader_agree(text, validator):
    data = yaml.safe_load(HEAD.replace("{method}", "tsv_merge") + text)
    if text is GOOD[-1]:  # a part has no preset
        assert not validator.is_valid(data)
        with pytest.raises(MergeryError, match="has no setting 'preset'"):
            load_recipe(data)
        return
    validator.validate(data)
    validator.validate(json.loads(json.dumps(load_recipe(data).plain())))


@pytest.mark.parametrize(
    "text",
    ["  preset: papr\n", "  rest: linaer\n", "  rest: {densty: 1}\n", "  rest: {take: a, where: {}}\n", "  parts: []\n",
     "  parts: [{take: base}]\n", "  parts: [{where: {}, take: a, method: ties}]\n",
     "  parts: [{where: {}, method: ties, x: 1}]\n"],
)  # fmt: skip
def test_the_schema_refuses_what_the_reader_refuses(text, validator):
    data = yaml.safe_load(HEAD.replace("{method}", "tsv_merge") + text)
    assert not validator.is_valid(data)
    with pytest.raises(MergeryError):
        load_recipe(data)


def test_rest_belongs_to_methods_that_do_not_work_on_everything(validator):
    for name, method in methods().items():
        merge = {"method": name, "base": "base", "rest": "linear"}
        merge |= {s.name: 0.5 for s in method.settings.values() if s.required and s.kind != "task"}
        assert validator.is_valid({"models": {"base": "x", "a": "y"}, "merge": merge}) == (method.roles is not None), (
            name
        )


def test_parts_are_checked_under_a_method_that_is_none():
    """A mistake in the method does not hide those behind it."""
    with pytest.raises(Problems) as caught:
        load_recipe("models: {a: x, b: y}\nmerge: {method: liner, parts: [{where: {role: norm}, method: tis}]}\n")
    assert [error.what for error in caught.value.errors] == ["unknown method 'liner'", "unknown method 'tis'"]
