"""What each method of mergekit becomes: the settings that reproduce it, and the part of the base."""

from __future__ import annotations

from typing import Any

import pytest

from mergery.method import find
from mergery.recipe.mergekit.methods import KNOWN, REQUIRED, RULES
from mergery.recipe.values import ByModel, Constant, Filtered, Value
from tests.recipe.mergekit.conftest import Read, Refuse

ARITHMETIC = {"weight": 0.5, "scale": 1.0}


def file(method: str, parameters: str = "", models: str = "ab", base: str = "base") -> str:
    lines = [f"merge_method: {method}", *([f"base_model: {base}"] if base else []), "models:"]
    lines += [f"  - model: {model}" for model in models]
    return "\n".join([*lines, f"parameters: {{{parameters}}}", ""])


def plain(settings: dict[str, Value]) -> dict[str, Any]:
    return {name: value.plain() for name, value in settings.items()}


@pytest.mark.parametrize(
    ("method", "given", "settings"),
    [
        ("linear", "weight: 1", {"weight": 1.0, "normalize": True}),
        ("nuslerp", "weight: 1", {"weight": 1.0, "scope": "tensor"}),
        ("nuslerp", "weight: 1, nuslerp_flatten: false", {"weight": 1.0, "scope": "row"}),
        ("nuslerp", "weight: 1, nuslerp_flatten: 0, nuslerp_row_wise: 1", {"weight": 1.0, "scope": "column"}),
        ("nuslerp", "weight: 1, nuslerp_row_wise: true", {"weight": 1.0, "scope": "tensor"}),
        ("multislerp", "weight: 1", {"weight": 1.0, "normalize": True, "tangent": "projection"}),
        ("karcher", "", {"max_iter": 10, "tol": 1e-5}),
        ("karcher", "max_iter: 3.0, tol: 1e-7", {"max_iter": 3, "tol": 1e-7}),
        ("task_arithmetic", "weight: 0.5, lambda: 0.7", {**ARITHMETIC, "scale": 0.7, "normalize": False}),
        ("ties", "weight: 0.5",
         {**ARITHMETIC, "density": 1.0, "scope": "tensor", "rescale": "none", "function": "mean"}),
        ("ties", "weight: 0.5, density: 0.3, rescale: true, normalize: false, lambda: 2",
         {"weight": 0.5, "density": 0.3, "scope": "tensor", "rescale": "l1", "function": "sum", "scale": 2.0}),
        ("dare_linear", "weight: 0.5", {**ARITHMETIC, "density": 1.0, "rescale": "l1", "normalize": False}),
        ("dare_ties", "weight: 0.5, density: 0.4, rescale: false",
         {**ARITHMETIC, "density": 0.4, "rescale": "none", "normalize": False}),
        ("della", "weight: 0.5, density: 0.4",
         {**ARITHMETIC, "density": 0.4, "window": 0.3, "rescale": "l1", "normalize": True}),
        ("della_linear", "weight: 0.5, density: 0.4, epsilon: 0.1",
         {**ARITHMETIC, "density": 0.4, "window": 0.2, "rescale": "l1", "normalize": False}),
        ("della", "weight: 0.5", {**ARITHMETIC, "density": 1.0, "window": 0.0, "rescale": "l1", "normalize": True}),
        ("breadcrumbs", "weight: 0.5",
         {**ARITHMETIC, "density": 1.0, "gamma": 0.01, "scope": "tensor", "rescale": "none", "normalize": False}),
        ("breadcrumbs_ties", "weight: 0.5, density: 0.4, gamma: 0.1",
         {**ARITHMETIC, "density": 0.4, "gamma": 0.1, "scope": "tensor", "rescale": "none", "normalize": False}),
        ("model_stock", "", {"scope": "tensor", "clamp": False}),
        ("model_stock", "filter_wise: true", {"scope": "row", "clamp": False}),
        ("sce", "", {"select_topk": 1.0, "select_applies_to": "values"}),
        ("ram", "", {"epsilon": 1e-5}),
        ("ramplus_tl", "r: 0.3", {"epsilon": 1e-5, "r": 0.3, "alpha": 0.2}),
    ],
)  # fmt: skip
def test_settings(read: Read, method: str, given: str, settings: dict[str, Any]) -> None:
    recipe = read(file(method, given))
    assert (recipe.merge.method, plain(dict(recipe.merge.settings))) == (method, settings)


@pytest.mark.parametrize(
    ("method", "given", "settings"),
    [
        ("nearswap", "t: 1e-4", {"t": 1e-4}),
        ("arcee_fusion", "", {}),
        ("slerp", "t: 0.3", {"t": 0.3, "lerp_above": 0.9995}),
    ],
)
def test_settings_of_methods_for_one_model_and_a_base(
    read: Read, method: str, given: str, settings: dict[str, Any]
) -> None:
    assert plain(dict(read(file(method, given, models="a")).merge.settings)) == settings


def test_passthrough(read: Read) -> None:
    assert read(file("passthrough", "", "a", base="")).merge.settings == {}
    assert read(file("passthrough", "scale: 0.5", "a", base="a")).merge.settings == {"scale": Constant(0.5)}


@pytest.mark.parametrize("method", RULES)
def test_every_setting_exists(method: str) -> None:
    rule, native = RULES[method], find(method)
    made = {parameter.setting for parameter in rule.parameters if parameter.setting}
    made |= {rule.together.setting} if rule.together else set()
    assert made | set(rule.settings) <= set(native.settings)
    assert native.base == (
        "required" if rule.base == "required" else "optional" if rule.base == "optional" else "unused"
    )
    for name, value in rule.settings.items():
        assert native.settings[name].check(value) == value
    for parameter in rule.parameters:
        if parameter.setting and parameter.default not in (REQUIRED, None):
            native.settings[parameter.setting].check(parameter.convert(parameter.default))


def test_all_methods_of_mergekit_are_known() -> None:
    assert len(RULES) == 20
    assert {"weight", "density", "t", "lambda", "int8_mask", "normalize", "epsilon", "filter_wise"} <= KNOWN


def test_della_s_window_follows_each_model_s_density(read: Read) -> None:
    text = """
merge_method: della
base_model: base
models:
  - {model: a, parameters: {density: 0.4, epsilon: 0.1}}
  - {model: b, parameters: {density: [{filter: mlp, value: 0.6}, {value: 1.0}]}}
parameters: {weight: 1}
"""
    window = read(text).merge.settings["window"]
    assert isinstance(window, ByModel)
    assert window.plain() == {"a": 0.2, "b": [{"where": {"name": "*mlp*"}, "value": 0.3}, {"value": 0.0}]}


def test_filters_in_one_of_two_parameters_that_make_a_setting(read: Read) -> None:
    scope = read(file("nuslerp", "weight: 1, nuslerp_flatten: {filter: mlp, value: false}")).merge.settings["scope"]
    assert isinstance(scope, Filtered)
    assert scope.plain() == [{"where": {"name": "*mlp*"}, "value": "row"}, {"value": "tensor"}]


def test_filters_in_both(refuse: Refuse) -> None:
    given = "weight: 1, nuslerp_flatten: {filter: mlp, value: false}, nuslerp_row_wise: {filter: q, value: true}"
    assert refuse(file("nuslerp", given)) == [
        "1:15: filters and lists in both nuslerp_flatten and nuslerp_row_wise cannot be translated\n"
        "  try: keep one of them constant"
    ]


# --- the base -----------------------------------------------------------------------------------------------


def test_a_base_that_differences_are_taken_from(read: Read) -> None:
    for text in (file("ties", "weight: 1"), file("ties", "weight: 1").replace("models:", "models:\n  - model: base")):
        merge = read(text).merge
        assert (merge.base, merge.models) == ("base", ("a", "b"))


def test_the_base_s_own_weight_changes_nothing(read: Read) -> None:
    text = file("ties", "weight: 1").replace(
        "models:", "models:\n  - {model: base, parameters: {weight: 0, density: 1}}"
    )
    assert read(text).notes == ("weight and density of base_model changes nothing: ties merges the others",)


def test_an_optional_base(read: Read) -> None:
    assert read(file("nuslerp", "weight: 1", base="")).merge.base is None
    assert read(file("multislerp", "weight: 1")).merge.base == "base"


def test_slerp_starts_from_the_base(read: Read) -> None:
    assert read(file("slerp", "t: 0.5", base="b")).merge.models == ("b", "a")
    assert read(file("slerp", "t: 0.5", models="a")).merge.models == ("base", "a")
    assert read(file("slerp", "t: 0.5", base="b")).merge.base is None


@pytest.mark.parametrize("method", ["linear", "karcher"])
def test_a_base_that_is_one_model_more(read: Read, method: str) -> None:
    recipe = read(file(method, "weight: 1" if method == "linear" else ""))
    assert (recipe.merge.models, recipe.merge.base, recipe.donor) == (("base", "a", "b"), None, "base")
    assert recipe.notes == (f"{method} merges base_model like any other model, as mergekit does",)


def test_a_listed_base_keeps_its_weight(read: Read) -> None:
    text = (
        "merge_method: linear\nbase_model: b\nmodels:\n  - {model: a, parameters: {weight: 1}}\n"
        "  - {model: b, parameters: {weight: 3}}\n"
    )
    merge = read(text).merge
    assert (merge.models, merge.settings["weight"]) == (
        ("b", "a"),
        ByModel((("b", Constant(3.0)), ("a", Constant(1.0)))),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (file("ties", "weight: 1", base=""), "1:15: ties needs a base_model\n  try: base_model: <one of the models>"),
        (
            file("slerp", "t: 1", models="abc", base="a"),
            "1:15: slerp merges exactly 2 models, base_model included\n  why: here: a, b, c\n"
            "  try: keep 2, or merge the others in a document of their own",
        ),
        (
            file("slerp", "t: 1"),
            "1:15: slerp merges exactly 2 models, base_model included\n  why: here: base, a, b\n"
            "  try: keep 2, or merge the others in a document of their own",
        ),
        (
            file("nuslerp", "weight: 1", "abc"),
            "1:15: nuslerp merges exactly 2 models besides base_model\n  why: here: a, b, c\n"
            "  try: keep 2, or merge the others in a document of their own",
        ),
        (
            file("model_stock", "", "a"),
            "1:15: model_stock merges at least 2 models besides base_model\n  why: here: a\n  try: add an entry",
        ),
        (
            file("nearswap", "t: 1"),
            "1:15: nearswap merges exactly 1 model besides base_model\n  why: here: a, b\n"
            "  try: keep 1, or merge the others in a document of their own",
        ),
        (
            file("passthrough", "", "a"),
            "1:15: passthrough merges exactly 1 model, base_model included\n  why: here: base, a\n"
            "  try: keep 1, or merge the others in a document of their own",
        ),
        (file("slerp", "", "a"), "1:15: slerp needs 't'\n  why: it has no default\n  try: parameters: {t: 0.5}"),
        (file("tise"), "1:15: unknown merge_method 'tise'\n  try: did you mean 'ties'?"),
        (
            file("ties", "weight: 1, density: 1.5"),
            "6:34: density is 1.5\n  why: density must lie in [0, 1]\n  try: such as density: 0.2",
        ),
    ],
)
def test_refusals(refuse: Refuse, text: str, message: str) -> None:
    assert refuse(text) == [message]


def test_no_method(refuse: Refuse) -> None:
    (said,) = refuse(file(""))
    assert said.startswith("1:14: no merge_method is named\n  try: known here: arcee_fusion, ")
