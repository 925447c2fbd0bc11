"""A mistake is told once, with something to try; what would follow from it is not told as another."""

from __future__ import annotations

import pytest
import yaml

from mergery.errors import MergeryError, Problems
from mergery.method import find, methods
from mergery.recipe.reading import load_recipe

THREE = "models: {base: ./base, math: ./math, code: ./code}\n"
TWO = "models: {a: ./a, b: ./b}\n"


def ties(more: str) -> str:
    """A recipe of one method with something more in its merge."""
    return THREE + f"merge: {{method: ties, base: base, {more}}}\n"


MISTAKES = {
    "model for models": ("model: {a: ./a, b: ./b}\nmerge: {method: linear}\n", "did you mean 'models'?"),
    "base_model": (THREE + "merge: {method: ties, base_model: base}\n", "base: base"),
    "base_model at the top": (THREE + "base_model: base\nmerge: {method: ties}\n", "merge: {base: base}"),
    "a method at the top": (THREE + "method: ties\nbase: base\n", "merge: {method: ties, base: base}"),
    "a setting at the top": (THREE + "merge: {method: ties, base: base}\ndensity: 0.5\n", "merge: {density: 0.5}"),
    "merge_method in a merge": (THREE + "merge: {merge_method: ties, base: base}\n", "method: ties"),
    "merge_method at the top": (THREE + "merge_method: linear\n", "merge: {method: linear}"),
    "a misspelt method key": (TWO + "merge: {metod: linear}\n", "method: linear"),
    "no colon": (TWO + "merge: {method linear}\n", "put a colon behind it: method: linear"),
    "unknown method and its settings": (TWO + "merge: {method: tise, densty: 1, lambda: 2}\n", "did you mean 'ties'?"),
    "unknown model and its weight": (
        TWO + "merge: {method: linear, models: [a, bb], weight: {a: 1, b: 2}}\n", "did you mean 'b'?"
    ),
    "unknown base": (THREE + "merge: {method: nearswap, t: 0.1, base: basis}\n", "did you mean 'base'?"),
    "unknown model in a slice": (TWO + "merge: {stack: [{models: {a: 0-3}}, {models: {bb: 0-3}}]}\n", "did you mean 'b'?"),
    "no models": ("merge: {method: slerp, base: a, weight: {b: 1}}\n", "models: {base: ./base, math: ./math}"),
    "no merge": (TWO, "merge: {method: linear}"),
    "one model": ("models: {a: ./a}\nmerge: {method: slerp, t: 0.5}\n", "add one under 'models': models: [a, <another>]"),
    "a base that does not count": (
        TWO + "merge: {method: slerp, base: a, t: 0.5}\n",
        "slerp merges no differences from a base: leave it out, and models: [a, b]",
    ),
    "alpha": (TWO + "merge: {method: slerp, alpha: 0.5}\n", "did you mean 't'?"),
    "lambda": (ties("lambda: 0.5"), "did you mean 'scale'?"),
    "weights": (ties("weights: 0.5"), "did you mean 'weight'?"),
    "a setting of no method": (ties("zzz: 0.5"), "its settings: weight, density, scope"),
    "dtype at the top": (TWO + "merge: {method: linear}\ndtype: bfloat16\n", "output: {dtype: bfloat16}"),
    "dtype in the merge": (TWO + "merge: {method: linear, dtype: bfloat16}\n", "output: {dtype: bfloat16}"),
    "bf16": (TWO + "merge: {method: linear}\noutput: {dtype: bf16}\n", "did you mean 'bfloat16'?"),
    "percent": (ties("density: 20"), "did you mean 0.2?"),
    "a percent sign": (ties("density: 20%"), "did you mean 0.2?"),
    "a word": (TWO + "merge: {method: slerp, t: half}\n", "such as t: 0.5"),
    "null": (ties("density: null"), "such as density: 0.2"),
    "a key twice": (THREE + "merge:\n  method: ties\n  base: base\n  method: linear\n", "keep one of them"),
    "indentation": ("models:\n  a: ./a\n   b: ./b\nmerge: {method: linear}\n", "check the indentation"),
    "a tab": ("models:\n\ta: ./a\nmerge: {method: linear}\n", "indent with spaces, not with tabs"),
    "an alias of nothing": (TWO + "merge: {method: *x}\n", "*name refers to &name"),
    "a tag": (TWO + "merge: !!python/object:os.system {method: linear}\n", "leave it out"),
    "an open bracket": (TWO + "merge: {method: linear\n", "check indentation, brackets and quotes in this place"),
    "layers that run backwards": (TWO + "merge: {stack: [{models: {a: 8-3}}, {models: {b: 1}}]}\n", "3-8, both ends included"),
    "models of a stack": (TWO + "merge: {models: [a], stack: [{models: {a: 0-3, b: 0-3}}], method: linear}\n", "leave it out"),
    "other lengths": (TWO + "merge: {method: linear, stack: [{models: {a: 0-3, b: 0-4}}]}\n", "give 4 layers of each"),
    "a part without where": (ties("parts: {method: linear}"), "parts: [{where:"),
    "a word for a recipe": ("models\n", "models: {a: ./a, b: ./b} and merge"),
    "an unused model": (TWO + "merge: {method: passthrough, models: [a]}\n", "add it to merge.models"),
    "a seed": (TWO + "merge: {method: linear}\nseed: lucky\n", "seed: 0"),
    "models in dashes": (
        "models:\n  - math: ./math\n  - code: ./code\nmerge: {method: linear}\n",
        "leave out the dashes: models: {math: ./math, code: ./code}",
    ),
    "models as mergekit has them": (
        "models:\n  - {model: ./math, parameters: {weight: 1}}\n  - model: ./code\nmerge: {method: linear}\n",
        "models: [./math, ./code], and settings under merge, such as weight: {math: 0.5}",
    ),
    "no space behind a colon": (
        "models:\n  a:./a\n  b:./b\nmerge: {method: linear}\n", "put a space behind each colon: a: ./a"
    ),
    "a path for models": ("models: ./math\nmerge: {method: linear}\n", "models: {math: ./math}"),
    "a model's config": (
        "architectures: [A]\nhidden_size: 1\nvocab_size: 1\nrms_norm_eps: 1\ndtype: bfloat16\n",
        "name that model's folder in a recipe",
    ),
    "another file": (
        "version: 1\nnormalizer: 1\ndecoder: 1\nmodel: {type: BPE}\nadded_tokens: []\n", "models: {a: ./a, b: ./b} and merge"
    ),
    "a base that is there": (THREE + "merge: {method: ties}\n", "base: base"),
    "a mergekit file without its method": ("models: [{model: ./a, parameters: {weight: 1}}]\n", "merge_method: linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_is_one_message_with_something_to_try(name):
    text, hint = MISTAKES[name]
    with pytest.raises(MergeryError) as caught:
        load_recipe(text)
    assert not isinstance(caught.value, Problems), caught.value
    assert hint in caught.value.hint, caught.value
    assert caught.value.where is not None


def test_what_was_meant_has_its_place():
    with pytest.raises(Problems) as caught:
        load_recipe("model: {a: ./a, b: ./b}\nmerge: {metod: tise}\n")
    assert [str(error.where) for error in caught.value.errors] == ["recipe:1:1", "recipe:2:9", "recipe:2:16"]


# --- names of methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("TIES", "ties"), ("Slerp", "slerp"), ("dare-ties", "dare_ties"), ("DARE TIES", "dare_ties"), ("average", "linear"),
        ("mean", "linear"), ("model soup", "linear"), ("task-arithmetic", "task_arithmetic"), ("TA", "task_arithmetic"),
        ("ModelStock", "model_stock"), ("ties_merging", "ties"), ("TSVM", "tsv_merge"), ("wudi-merging", "wudi"),
    ],
)  # fmt: skip
def test_methods_in_any_case_and_by_their_other_names(word, name):
    assert find(word) is methods()[name]
    text = f"models: {{base: ./base, a: ./a, b: ./b}}\nmerge: {{method: {word}, base: base}}\n"
    assert load_recipe(text).plain()["merge"]["method"] == name


def test_no_name_means_two_methods():
    from mergery.method.registry import OTHER_NAMES

    words = [word for names in OTHER_NAMES.values() for word in names]
    assert len(set(words)) == len(words)
    assert OTHER_NAMES.keys() <= methods().keys()
    assert not {name.replace("_", "") for name in methods()} & set(words)


@pytest.mark.parametrize(
    ("word", "hint"), [("dare", "did you mean 'dare_ties'?"), ("qqqq", "`mergery methods` lists them")]
)
def test_what_no_method_is_called(word, hint):
    with pytest.raises(MergeryError) as caught:
        find(word)
    assert hint in caught.value.hint


# --- paths where names belong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "models", "merge"),
    [
        ("models: [./a, org/b]\nmerge: {method: linear}\n", {"a": "./a", "b": "org/b"}, {"models": ["a", "b"]}),
        ("models: [./x/llama, ./y/llama]\nmerge: {method: linear}\n", {"llama": "./x/llama", "llama-2": "./y/llama"},
         {"models": ["llama", "llama-2"]}),
        ("models: [./a, {path: org/b, revision: v1}]\nmerge: {method: linear, weight: {a: 1, b: 3}}\n",
         {"a": "./a", "b": {"path": "org/b", "revision": "v1"}}, {"weight": {"a": 1, "b": 3}}),
        (TWO + "merge: {method: ties, base: ./llama}\n", {"a": "./a", "b": "./b", "llama": "./llama"},
         {"base": "llama", "models": ["a", "b"]}),
        (TWO + "merge: {method: ties, base: ./a/, weight: {./b: 0.5}}\n", {"a": "./a", "b": "./b"},
         {"base": "a", "models": ["b"], "weight": {"b": 0.5}}),
        ("models: {a: ./a}\nmerge: {method: linear, models: [a, ~/b], parts: [{where: {role: norm}, take: ~/b}]}\n",
         {"a": "./a", "b": "~/b"}, {"models": ["a", "b"]}),
        ("models: {a: ./a}\nmerge: {stack: [{models: {a: 0-1}}, {models: {./b: 0-1}}]}\n", {"a": "./a", "b": "./b"},
         {"stack": [{"models": {"a": "0-1"}}, {"models": {"b": "0-1"}}]}),
    ],
)  # fmt: skip
def test_a_path_stands_for_a_model(text, models, merge):
    found = load_recipe(text).plain()
    assert found["models"] == models
    assert merge.items() <= found["merge"].items()
    assert load_recipe(yaml.safe_dump(found)).plain() == found


def test_a_path_has_the_place_where_it_stands():
    recipe = load_recipe(TWO + "merge: {method: ties, base: ./llama}\n")
    assert str(recipe.models["llama"].place) == "recipe:2:29"


def test_patterns_of_names_are_no_paths():
    text = TWO + "merge: {method: linear, weight: [{where: {name: 'model/*'}, value: 0.5}, {value: 1}]}\n"
    assert load_recipe(text).plain()["merge"]["weight"][0]["where"] == {"name": "model/*"}


def test_a_path_that_is_no_model_of_the_merge():
    with pytest.raises(MergeryError) as caught:
        load_recipe(TWO + "merge: {method: linear}\noutput: {config: ./c}\n")
    assert caught.value.hint == "name it under 'models', {c: ./c}, and say c here"


def test_one_model_under_two_names_is_told():
    assert load_recipe("models: {a: ./a, b: ./a/}\nmerge: {method: linear}\n").notes == (
        "a and b are the same model: ./a/",
    )
    assert load_recipe("models: {a: {path: x/a, revision: v1}, b: x/a}\nmerge: {method: linear}\n").notes == ()
