"""Whatever stands in a file: a recipe or a clear message, never a traceback."""

from __future__ import annotations

import contextlib
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mergery.errors import MergeryError
from mergery.recipe.mergekit.methods import KNOWN, RULES
from mergery.recipe.reading import load_recipe

WORDS = [
    *RULES, *KNOWN, "models", "slices", "modules", "sources", "model", "path", "revision", "lora", "layer_range",
    "parameters", "base_model", "dtype", "out_dtype", "tokenizer_source", "tokenizer", "source", "tokens", "name",
    "chat_template", "filter", "value", "merge_method", "union", "base", "auto", "bfloat16", "a", "b@c", "d+e", "",
]  # fmt: skip
LEAVES = st.sampled_from(WORDS) | st.integers(-2, 5) | st.floats(allow_nan=True) | st.booleans() | st.none()
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)
MODEL = st.fixed_dictionaries({"model": st.sampled_from("abc") | ANYTHING}, optional={"parameters": ANYTHING})
SOURCE = st.fixed_dictionaries({"model": st.sampled_from("abc"), "layer_range": st.just([0, 2]) | ANYTHING})
SLICE = st.fixed_dictionaries({"sources": st.lists(SOURCE, max_size=3) | ANYTHING}, optional={"base_model": ANYTHING})
DOCUMENT = st.fixed_dictionaries(
    {"merge_method": st.sampled_from(sorted(RULES)) | ANYTHING},
    optional={
        "models": st.lists(MODEL, max_size=3) | ANYTHING,
        "slices": st.lists(SLICE, max_size=2),
        "base_model": st.sampled_from("abc") | ANYTHING,
        **{
            key: ANYTHING
            for key in WORDS
            if key in ("modules", "parameters", "dtype", "tokenizer", "name", "chat_template")
        },
    },
)


@settings(max_examples=400)
@given(st.lists(DOCUMENT, min_size=1, max_size=3))
def test_files_are_read_or_refused(documents: list[dict[str, Any]]) -> None:
    with contextlib.suppress(MergeryError):
        load_recipe(yaml.safe_dump_all(documents) + "\n")
