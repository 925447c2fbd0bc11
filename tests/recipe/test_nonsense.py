"""Whatever stands in a recipe, it is read, or refused with something to try; what is read is written as it was read."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import MergeryError, Problems
from mergery.recipe.changes import Changes
from mergery.recipe.document import write_yaml
from mergery.recipe.reading import load_recipe

WORDS = [
    "models", "merge", "output", "method", "base", "stack", "parts", "rest", "where", "take", "value", "gradient", "path",
    "weight", "density", "t", "merge_method", "base_model", "metod", "dtype", "tokenizer", "vocabulary", "tokens", "from",
    "allow", "seed", "upscale", "drop", "a", "b", "./c", "org/d", "~/a b", "ties", "slerp", "TIES", "linear", "x-y", "0-3",
    "method linear", "", "1e5",
]  # fmt: skip
LEAVES = st.sampled_from(WORDS) | st.integers(-2, 99) | st.floats(allow_nan=True) | st.booleans() | st.none()
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=10,
)
MODEL = st.sampled_from(["./a", "./b", "org/c"]) | ANYTHING
MODELS = st.dictionaries(st.sampled_from("abc"), MODEL, min_size=1, max_size=3) | st.lists(MODEL, max_size=3) | ANYTHING
METHOD = st.sampled_from(["linear", "slerp", "ties", "TIES", "average", "tsv_merge", "passthrough"]) | ANYTHING
KEYS = ["base", "models", "stack", "parts", "rest", "preset", "weight", "density", "t", "scale", "merge_method", "bse"]
MERGE = (
    st.fixed_dictionaries({"method": METHOD}, optional={key: st.sampled_from("abc") | ANYTHING for key in KEYS})
    | ANYTHING
)
RECIPE = st.fixed_dictionaries(
    {"models": MODELS, "merge": MERGE},
    optional=dict.fromkeys(
        ("output", "vocabulary", "seed", "drop", "allow", "tensors", "method", "x-y", "dtpe"), ANYTHING
    ),
)


def read(recipe: Any, changes: Changes = Changes()) -> None:
    try:
        plain = load_recipe(yaml.safe_dump(recipe) + "\n", changes=changes).plain()
    except MergeryError as error:
        for each in error.errors if isinstance(error, Problems) else (error,):
            assert each.hint, each
    else:
        assert load_recipe(write_yaml(plain)).plain() == plain


@settings(max_examples=500, deadline=None)
@given(RECIPE)
def test_recipes_are_read_or_refused(recipe: dict[str, Any]) -> None:
    read(recipe)


@settings(max_examples=200, deadline=None)
@given(RECIPE, st.lists(st.sampled_from(WORDS) | st.integers(0, 3).map(str), min_size=1, max_size=4), ANYTHING)
def test_changes_are_made_or_refused(recipe: dict[str, Any], path: list[str], value: Any) -> None:
    read(recipe, Changes([f"{'.'.join(path)}={yaml.safe_dump(value, default_flow_style=True)}"]))
