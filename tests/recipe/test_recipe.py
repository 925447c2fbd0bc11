"""Recipes are read strictly: every mistake has a place, a reason and something to try."""

from __future__ import annotations

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mergery.errors import MergeryError, Problems, RecipeError
from mergery.recipe.document import read_documents, write_yaml
from mergery.recipe.reading import load_recipe, parse_size
from mergery.recipe.schema import recipe_schema
from mergery.recipe.values import UNSET, Target, parse_layers, parse_value

GOOD = """\
models:
  base: ./base
  math: {path: org/math, revision: v1}
  code: ./code
  blend: {method: slerp, models: [math, code], t: 0.5}
merge:
  method: ties
  base: base
  models: [math, blend]
  density: 0.2
  weight: {math: 0.6, blend: [0.2, 0.8]}
output: {dtype: bfloat16, shard_size: 5GB}
seed: 7
"""


def problem(text: str) -> str:
    with pytest.raises(MergeryError) as caught:
        load_recipe(text)
    return str(caught.value)


def test_a_good_recipe_is_read_whole():
    recipe = load_recipe(GOOD)
    assert recipe.donor == "base"
    assert recipe.merge.models == ("math", "blend")
    assert recipe.output.dtype == "bfloat16"
    assert recipe.seed == 7
    assert load_recipe(yaml.safe_dump(recipe.plain())).plain() == recipe.plain()


def test_renames_and_sets_of_tensors_are_part_of_a_recipe():
    text = """models: {a: ./a, b: {path: ./b, rename: {"net.*": "model.*", "out": "lm_head"}}}
merge: {method: linear}
tensors: union
"""
    recipe = load_recipe(text)
    assert recipe.tensors == "union"
    assert recipe.models["b"].rename == {"net.*": "model.*", "out": "lm_head"}
    assert load_recipe(yaml.safe_dump(recipe.plain())).plain() == recipe.plain()


def test_models_default_to_all_but_the_base():
    recipe = load_recipe("models: {base: ./x, a: ./y, b: ./z}\nmerge: {method: ties, base: base}\n")
    assert recipe.merge.models == ("a", "b")


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (GOOD.replace("density", "densty"), "recipe:10:3", "did you mean 'density'?"),
        (GOOD.replace("density: 0.2", "density: 1.2"), "recipe:10:12", "density must lie in [0, 1]"),
        (GOOD.replace("density: 0.2", "density: lots"), "recipe:10:12", "density must be a number in [0, 1]"),
        (GOOD.replace("density: 0.2", "density: [0.1, oops]"), "recipe:10:12", "density must be a number"),
        (GOOD.replace("method: ties", "method: tise"), "recipe:7:11", "did you mean 'ties'?"),
        (GOOD.replace("dare-ties", "dare_ties"), "", ""),
        (GOOD.replace("base: base\n", "base: bose\n"), "recipe:8:9", "did you mean 'base'?"),
        (GOOD.replace("models: [math, blend]", "models: [math, bland]"), "recipe:9:18", "did you mean 'blend'?"),
        (GOOD.replace("models: [math, blend]", "models: [math, math]"), "recipe:9:18", "stands twice"),
        (GOOD.replace("models: [math, blend]", "models: []"), "recipe:9:11", "models must be a list of names"),
        (GOOD.replace("{math: 0.6", "{moth: 0.6"), "recipe:11:11", "did you mean 'math'?"),
        (GOOD.replace("weight: {math: 0.6, blend: [0.2, 0.8]}", "weight: '0.5'"), "recipe:11:11", "must be a number"),
        (GOOD.replace("seed: 7", "seed: -1"), "recipe:13:7", "zero or more"),
        (GOOD.replace("seed: 7", "sead: 7"), "recipe:13:1", "did you mean 'seed'?"),
        (GOOD.replace("bfloat16", "[]"), "recipe:12:17", "unknown dtype"),
        (GOOD.replace("bfloat16", "bf16"), "recipe:12:17", "unknown dtype"),
        (GOOD.replace("5GB", "5 parsecs"), "recipe:12:39", "no size"),
        (GOOD.replace("revision", "revison"), "recipe:3:26", "did you mean 'revision'?"),
        (GOOD.replace("  code: ./code", "  code: 5"), "recipe:4:9", "must be a path"),
        (GOOD.replace("[math, code]", "[math, blend]"), "recipe:5:10", "needs itself"),
        (GOOD + "seed: 8\n", "recipe:14:1", "stands twice"),
        (GOOD + "extra: [\n", "recipe:15:1", "not valid YAML"),
        ("models: {}\nmerge: {method: linear}\n", "recipe:1:9", "names no models"),
        ("merge: {method: linear}\n", "recipe:1:1", "names no models"),
        ("models: {a: ./a}\n", "recipe:1:1", "no 'merge'"),
        ("- a\n- b\n", "recipe:1:1", "a recipe is a mapping"),
        ("models: {a: ./a, b: ./b}\nmerge: {method: ties}\n", "recipe:2:8", "ties needs a base"),
        ("models: {a: ./a, b: ./b}\nmerge: {method: linear, models: [a]}\n", "recipe:1:18", "'b' is not used"),
        ("models: {a: ./a}\nmerge: {method: linear, dtype: float32}\n", "recipe:2:25", "under 'output'"),
        ("a: &x [*x]\nb: 1\n", "recipe", ""),
    ],
)  # fmt: skip
def test_mistakes_have_a_place_and_a_reason(text, place, says):
    if not place:
        return
    message = problem(text)
    assert place in message, message
    assert says in message, message


def test_all_problems_are_told_at_once():
    text = GOOD.replace("density: 0.2", "density: 2").replace("bfloat16", "int3").replace("seed: 7", "seed: x")
    with pytest.raises(Problems) as caught:
        load_recipe(text)
    assert len(caught.value.errors) == 3


def test_exploding_documents_are_refused():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, two in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{two}: &{two} [" + ", ".join([f"*{one}"] * 9) + "]\n"
    with pytest.raises(RecipeError, match="too many values"):
        read_documents(bomb, "bomb")


@given(st.text(max_size=200))
def test_no_text_makes_a_traceback(text):
    try:
        load_recipe("\n" + text)
    except MergeryError as error:
        assert str(error)


# --- values -----------------------------------------------------------------------------------------------------------


def target(layer: int | None, depth: float | None, *roles: str, after: bool = False) -> Target:
    return Target("model.layers.0.x" if layer is not None else "y", layer, roles or ("other",), depth, after)


def test_a_gradient_runs_over_depth_and_ends_where_the_model_ends():
    value = parse_value([0.0, 1.0])
    assert value.at(target(0, 0.0)) == 0.0
    assert value.at(target(1, 0.25)) == 0.25
    assert value.at(target(4, 1.0)) == 1.0
    assert value.at(target(None, None, "embed")) == 0.0
    assert value.at(target(None, None, "head", after=True)) == 1.0
    quirk = parse_value({"gradient": [0.0, 1.0], "outside": "first"})
    assert quirk.at(target(None, None, "head", after=True)) == 0.0


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.floats(0, 1))
def test_a_gradient_stays_between_its_points(points, depth):
    at = parse_value(points).at(target(0, depth))
    assert min(points) - 1e-9 <= at <= max(points) + 1e-9


def test_filters_look_at_parsed_names():
    value = parse_value(
        [
            {"where": {"role": "mlp", "layers": "0-3"}, "value": 0.1},
            {"where": {"role": ["attention.q", "attention.k"]}, "value": 0.2},
            {"where": {"name": "lm_*"}, "value": 0.3},
        ]
    )
    assert value.at(target(2, 0.5, "mlp.up")) == 0.1
    assert value.at(target(4, 0.5, "mlp.up")) is UNSET
    assert value.at(target(4, 0.5, "attention.q")) == 0.2
    assert value.at(target(4, 0.5, "attention.v")) is UNSET
    assert value.at(Target("lm_head.weight", None, ("head",))) == 0.3


@pytest.mark.parametrize("text", ["5-3", "a-b", "-1", "", "1-2-3", None, 1.5, True])
def test_layer_ranges_are_strict(text):
    with pytest.raises(RecipeError):
        parse_layers(text)


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("500 MiB", 500 * 2**20), (1000, 1000), ("1.5kB", 1500)]
)
def test_sizes_have_units(text, size):
    assert parse_size(text) == size


def test_written_yaml_reads_back_the_same():
    data = {"a": "1e5", "b": 1e-05, "c": "yes", "d": "0x10", "e": ["./1e5", None, True], "f": "é"}
    assert read_documents(write_yaml(data), "x")[0].data == data


# --- schema -----------------------------------------------------------------------------------------------------------


def test_the_schema_accepts_what_the_reader_accepts():
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.safe_load(GOOD))
    for broken in ("densty: 1", "density: 2", "weight: [a]"):
        bad = yaml.safe_load(
            GOOD.replace("density: 0.2", broken).replace("  weight: {math: 0.6, blend: [0.2, 0.8]}\n", "")
        )
        assert not validator.is_valid(bad), broken


@pytest.mark.parametrize(
    ("part", "good"),
    [
        ("{stack: {upscale: m, drop: 8}}", True),
        ("{stack: {insert: m, every: 4}}", True),
        ("{stack: [{models: {m: 0-3}}, {models: {m: 3}, scale: 0.5}]}", True),
        ("{stack: {upscale: m, every: 4}}", False),
        ("{stack: {insert: m, every: 0}}", False),
        ("{}", False),
    ],
)
def test_schema_and_reader_agree_on_stacks(part, good):
    data = yaml.safe_load(f"models: {{m: ./m}}\nmerge: {part}\n")
    assert jsonschema.Draft202012Validator(recipe_schema()).is_valid(data) == good
    if good:
        load_recipe(data)
    else:
        with pytest.raises(MergeryError):
            load_recipe(data)


@pytest.mark.parametrize(
    ("convert", "good"),
    [
        ({"kv_heads": 8, "layers": 24}, True),
        ({"kv_heads": 0}, False),
        ({"heads": 8}, True),
        ({"heads": 0}, False),
        ({"head": 8}, False),
        ({}, False),
        (8, False),
    ],
)
def test_schema_and_reader_agree_on_conversions(convert, good):
    data = {"models": {"m": {"path": "./m", "convert": convert}}, "merge": {"method": "passthrough"}}
    assert jsonschema.Draft202012Validator(recipe_schema()).is_valid(data) == good
    if good:
        recipe = load_recipe(data)
        assert load_recipe(recipe.plain()) == recipe
    else:
        with pytest.raises(MergeryError):
            load_recipe(data)
