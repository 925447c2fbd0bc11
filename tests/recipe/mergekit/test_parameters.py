"""Precedence, fall-through, gradients, filters and the types of scalars."""

from __future__ import annotations

import pytest

from mergery.recipe.values import UNSET, ByModel, Condition, Constant, Filtered, Gradient, Target
from tests.recipe.mergekit.conftest import Read, Refuse

TWO = (
    "merge_method: linear\nmodels:\n  - {{model: a, parameters: {{{a}}}}}\n  - {{model: b, parameters: {{{b}}}}}\n{top}"
)


def two(a: str = "", b: str = "", top: str = "") -> str:
    return TWO.format(a=a, b=b, top=top)


def target(name: str, depth: float | None = None, **names: str) -> Target:
    return Target(name, depth=depth, model_names=tuple(names.items()))


def test_a_model_s_own_value_comes_before_the_file_s(read: Read) -> None:
    weight = read(two("weight: 0.2", "", "parameters: {weight: 0.7}")).merge.settings["weight"]
    assert weight == ByModel((("a", Constant(0.2)), ("b", Constant(0.7))))


def test_equal_values_are_written_once(read: Read) -> None:
    assert read(two("weight: 1", "weight: 1.0")).merge.settings["weight"] == Constant(1.0)


def test_a_level_without_a_match_falls_through_all_levels(read: Read) -> None:
    text = """
merge_method: linear
modules:
  default:
    models:
      - {model: a, parameters: {weight: {filter: q_proj, value: 0.1}}}
      - {model: b}
    parameters: {weight: [{filter: mlp, value: 0.2}]}
parameters: {weight: [{filter: norm, value: 0.3}, {value: 0.4}]}
"""
    weight = read(text).merge.settings["weight"]
    assert [weight.at(target(name), "a") for name in ("x.q_proj.w", "x.mlp.w", "x.norm.w", "lm_head")] == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]
    assert [weight.at(target(name), "b") for name in ("x.q_proj.w", "x.mlp.w", "x.norm.w", "lm_head")] == [
        0.4,
        0.2,
        0.3,
        0.4,
    ]


def test_slices_fall_back_to_the_file(read: Read) -> None:
    text = """
merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: {filter: mlp, value: 0.1}}}
      - {model: b, layer_range: [1, 3]}
    parameters: {weight: {filter: norm, value: 0.2}}
  - sources: [{model: a, layer_range: [2, 3]}, {model: b, layer_range: [0, 1]}]
parameters: {weight: 0.5, normalize: false}
"""
    merge = read(text).merge
    first, second = merge.stack
    assert (first.models, second.models) == (
        (("a", (0, 1)), ("b", (1, 2))),
        (("a", (2, 2)), ("b", (0, 0))),
    )
    own = first.settings["weight"]
    assert [own.at(target(name), "a") for name in ("mlp", "norm", "q")] == [0.1, 0.2, UNSET]
    assert [own.at(target(name), "b") for name in ("mlp", "norm", "q")] == [UNSET, 0.2, UNSET]
    assert second.settings == {}
    assert merge.settings == {"weight": Constant(0.5), "normalize": Constant(False)}


def test_the_first_filter_that_matches_wins(read: Read) -> None:
    weight = read(
        two("weight: [{filter: mlp, value: 1}, {filter: mlp.up, value: 2}, {value: 3}, {value: 4}]", "weight: 1")
    )
    own = dict(weight.merge.settings["weight"].values)["a"]
    assert own == Filtered(
        (
            (Condition(name="*mlp*"), Constant(1.0)),
            (Condition(name="*mlp.up*"), Constant(2.0)),
            (Condition(), Constant(3.0)),
        )
    )


@pytest.mark.parametrize("everything", ["", "filter: '*', ", "filter: '', ", "filter: null, "])
def test_filters_that_match_everything(read: Read, everything: str) -> None:
    assert read(two(f"weight: {{{everything}value: 0.5}}", "weight: 0.5")).merge.settings["weight"] == Constant(0.5)


def test_filters_are_pieces_of_names_not_patterns(read: Read) -> None:
    weight = read(two("weight: [{filter: 'layers.[1]?*', value: 0.1}, {value: 1}]", "weight: 1")).merge.settings[
        "weight"
    ]
    assert weight.at(target("x.layers.[1]?*.y"), "a") == 0.1
    assert weight.at(target("x.layers.1zz.y"), "a") == 1.0


def test_filters_of_one_model_see_its_own_tensor_names(read: Read) -> None:
    weight = read(two("weight: [{filter: layers.7., value: 0.1}, {value: 1}]", "weight: 1")).merge.settings["weight"]
    assert weight.at(target("layers.2.x", a="layers.7.x", b="layers.2.x"), "a") == 0.1


def test_a_gradient_gives_everything_outside_the_layers_its_first_value(read: Read) -> None:
    weight = read(two("weight: [0, 1, 4]", "weight: 1")).merge.settings["weight"]
    head = Target("lm_head.weight", after=True)
    assert [weight.at(target("x", depth), "a") for depth in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 4.0]
    assert weight.at(head, "a") == weight.at(Target("embed"), "a") == 0.0


def test_a_gradient_of_one_value_is_that_value(read: Read) -> None:
    assert read(two("weight: [0.5]", "weight: [0.5, 0.5]")).merge.settings["weight"] == Constant(0.5)


def test_scalars_may_stand_in_quotes_or_be_written_as_powers(read: Read) -> None:
    weight = read(two("weight: '0.5'", "weight: [1e-1, '1e-5', true]")).merge.settings["weight"]
    assert weight == ByModel((("a", Constant(0.5)), ("b", Gradient((0.1, 1e-5, 1.0), "first"))))


@pytest.mark.parametrize(("written", "meant"), [("yes", True), ("'off'", False), ("1", True), ("0.0", False)])
def test_truth_values(read: Read, written: str, meant: bool) -> None:
    assert read(two("weight: 1", "weight: 1", f"parameters: {{normalize: {written}}}")).merge.settings[
        "normalize"
    ] == Constant(meant)


def test_a_list_of_truth_values_holds_each_to_the_next(read: Read) -> None:
    recipe = read(two("weight: 1", "weight: 1", "parameters: {normalize: [true, false]}"))
    assert recipe.merge.settings["normalize"] == Gradient((True, False), "first")
    assert recipe.notes == ()


def test_a_parameter_of_another_method_is_a_note(read: Read) -> None:
    recipe = read(two("weight: 1, density: 0.3", "weight: 1", "parameters: {int8_mask: true}"))
    assert set(recipe.merge.settings) == {"weight", "normalize"}
    assert recipe.notes == (
        "line 5: int8_mask changes nothing: linear has no such parameter",
        "line 3: density changes nothing: linear has no such parameter",
    )


def test_a_parameter_of_all_models_changes_nothing_at_one(read: Read) -> None:
    recipe = read(two("weight: 1, normalize: false", "weight: 1"))
    assert recipe.merge.settings["normalize"] == Constant(True)
    assert recipe.notes == ("line 3: normalize of one model changes nothing: it belongs to the whole merge or a slice",)


def test_a_filter_without_a_rest_is_a_note(read: Read) -> None:
    recipe = read(two("weight: {filter: mlp, value: 0.3}", "weight: 1"))
    assert recipe.notes == (
        "weight has no value for tensors that none of its filters match: mergekit stops there, and a recipe takes "
        "the method's default where it has one",
    )


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("high", "3:37: weight is 'high'\n  why: weight must be a number\n  try: such as weight: 1.0"),
        ("null", "3:37: weight is None\n  why: it must be a number\n  try: such as weight: 1"),
        (".inf", "3:37: weight is inf\n  why: weight must be a finite number\n  try: such as weight: 1.0"),
        ("[0, x]", "3:41: weight is 'x'\n  why: weight must be a number\n  try: such as weight: 1.0"),
        ("[]", "3:37: weight: an empty list is no value\n  try: a number, or a gradient such as [0, 1]"),
        ("{filter: mlp}", "3:37: weight: a filter without its value\n  try: write {filter: mlp, value: 0.5}"),
        ("{fliter: mlp, value: 1}", "3:38: unknown key 'fliter'\n  try: did you mean 'filter'?"),
        ("[{value: 1}, 2]", "3:50: weight: 2 stands among filters\n  try: write {filter: …, value: …}"),
        ("{filter: 3, value: 1}", "3:46: the filter 3 is not text\n  try: put it in quotes"),
    ],
)
def test_values_that_mean_nothing(refuse: Refuse, weight: str, message: str) -> None:
    assert refuse(two(f"weight: {weight}", "weight: 1")) == [message]


def test_misspelt_parameters(refuse: Refuse) -> None:
    assert refuse(two("wieght: 1", "weight: 1", "parameters: {weight: 1}")) == [
        "3:29: unknown parameter 'wieght'\n  try: did you mean 'weight'?"
    ]


def test_a_missing_weight(refuse: Refuse) -> None:
    assert refuse(two("weight: 1", "")) == [
        "4:5: linear needs 'weight' for 'b'\n  why: it has no default\n  try: parameters: {weight: 0.5}"
    ]


def test_a_missing_weight_of_a_base_that_joins_the_average(refuse: Refuse) -> None:
    (message,) = refuse(two("weight: 1", "weight: 1", "base_model: c\n"))
    assert message.startswith(
        "5:13: linear needs 'weight' for 'c'\n  why: linear merges base_model like any other model"
    )
