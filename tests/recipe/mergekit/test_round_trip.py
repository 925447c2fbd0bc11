"""What `mergery import` prints is the recipe: reading it gives the same again."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.method import find
from mergery.recipe import Recipe
from mergery.recipe.mergekit.methods import RULES, Parameter, Rule
from mergery.recipe.reading import load_recipe
from tests.recipe.mergekit.conftest import Read

PATHS = ["./a", "org/b@v1", "x/a", "/data/ü model/", "12", "runs/7", "yes", "y/b", "a:b", "#c", "x/value"]
FILTERS = ["mlp", "self_attn", "*", "", "layers.1.", "[x]?*", "'q\"", "- k"]


def printed(recipe: Recipe) -> str:
    return yaml.safe_dump(recipe.plain(), sort_keys=False, allow_unicode=True)


def scalars(parameter: Parameter) -> st.SearchStrategy[Any]:
    if parameter.kind == "bool":
        return st.booleans()
    if parameter.kind == "int":
        return st.integers(0, 50)
    low, high = (0.3, 0.5) if parameter.name in ("density",) else (0.01, 0.2)
    return st.one_of(st.floats(low, high), st.just(low).map(str))


def values(parameter: Parameter, *, plain: bool) -> st.SearchStrategy[Any]:
    """A scalar, a gradient, or filters; only a scalar where two parameters make one setting."""
    scalar = scalars(parameter)
    if plain:
        return scalar
    gradient = st.lists(scalar, min_size=1, max_size=4)
    case = st.fixed_dictionaries({"value": scalar | gradient}, optional={"filter": st.sampled_from(FILTERS)})
    return scalar | gradient | case | st.lists(case, min_size=1, max_size=3)


def parameters(rule: Rule, *, full: bool) -> st.SearchStrategy[dict[str, Any]]:
    """Some parameters of a method; with `full`, all that it needs, for every tensor."""
    plain = rule.together.names if rule.together else ()
    each = {p.name: values(p, plain=full or p.name in plain) for p in rule.parameters}
    needed = {name: each.pop(name) for name in ("weight", "t") if full and name in each}
    return st.fixed_dictionaries(needed, optional=each)


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    method = draw(st.sampled_from(sorted(RULES)))
    rule = RULES[method]
    least, most = rule.models or find(method).models
    count = draw(st.integers(least, min(most or 4, 4)))
    paths = draw(st.lists(st.sampled_from(PATHS), min_size=count + 1, max_size=count + 1, unique=True))
    base, models = paths[0], paths[1:]
    result: dict[str, Any] = {"merge_method": method, "parameters": draw(parameters(rule, full=True))}
    if rule.base == "first":
        base = models[0]
    if rule.base in ("required", "first") or (rule.base == "optional" and draw(st.booleans())):
        result["base_model"] = base
    some = parameters(rule, full=False)
    if draw(st.booleans()):
        result["models"] = [{"model": model, "parameters": draw(some)} for model in models]
    else:
        with_base = [*models, base] if rule.takes_base and "base_model" in result else models
        result["slices"] = [
            {
                "sources": [
                    {"model": model, "layer_range": [low, low + 2], "parameters": draw(some)} for model in with_base
                ],
                "parameters": draw(some),
            }
            for low in draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
        ]
    optional = {"dtype": "bfloat16", "out_dtype": "float32", "tokenizer_source": models[-1], "random_seed": 5}
    return result | {name: value for name, value in optional.items() if draw(st.booleans())}


@settings(max_examples=200)
@given(files())
def test_what_is_printed_is_the_recipe(file: dict[str, Any]) -> None:
    recipe = load_recipe(yaml.safe_dump(file, sort_keys=False))
    assert load_recipe(printed(recipe)) == recipe


@pytest.mark.parametrize(
    "stages", ["", "---\nname: y\nmerge_method: linear\nmodels: [{model: a}, {model: z}]\nparameters: {weight: 1}\n"]
)
def test_stages_are_printed_too(read: Read, stages: str) -> None:
    text = (
        "name: x\nmerge_method: passthrough\nslices:\n  - sources: [{model: y, layer_range: [0, 3]}]\n"
        "  - sources: [{model: a@main, layer_range: [1, 2], parameters: {scale: 0.5}}]\nbase_model: a\ndtype: float16\n"
        f"{stages}---\nmerge_method: ties\nbase_model: x\nmodels: [{{model: y}}, {{model: b}}]\n"
        "parameters: {weight: [0, 1]}\n"
    )
    recipe = read(text)
    assert load_recipe(printed(recipe), folder=recipe.folder) == recipe
