"""YAML as its writers use it: anchors, keys that take from others, and documents that explode."""

from __future__ import annotations

import pytest

from mergery.errors import RecipeError
from mergery.recipe.document import Document, read_documents
from mergery.recipe.reading import load_recipe


def read(text: str) -> Document:
    (document,) = read_documents(text, "file")
    return document


def test_a_merge_key_takes_what_the_mapping_lacks():
    document = read("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 0}\n'<<': word\n")
    assert document.data["c"] == {"x": 0, "y": 2, "z": 4}  # its own first, then in the order of the list
    assert document.data["<<"] == "word"
    assert str(document.where(("c", "y"))) == "file:1:17"  # where it is written
    assert str(document.where(("c", "x"))) == "file:3:22"


def test_merge_keys_are_taken_from_what_has_some_itself():
    document = read("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b}\n")
    assert document.data["c"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {<<: 3}\n", "file:1:9: '<<' takes mappings only"),
        ("a: &a {x: 1}\nb: {<<: *a, <<: *a}\n", "file:2:13: the key '<<' stands twice"),
        ("a: &a {<<: *a}\n", "nested too deeply"),
        ("a: &a {x: 1, x: 2}\nb: {<<: *a}\n", "file:1:14: the key 'x' stands twice"),
        ("a: {<<: {? [1] : 2}}\n", "a key must be a word"),
        ("".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" if n else "a0: &a0 {x: 1}\n" for n in range(60)),
         "too many values"),
    ],
)  # fmt: skip
def test_merge_keys_that_cannot_be(text, says):
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert says in str(caught.value)


def test_what_later_keys_refer_to_is_a_holder():
    text = "one: &a {x: 1}\ntwo: {y: &b [1]}\nthree: &c {z: 1}\nfour: {p: *a, q: *b}\nfive: *c\nsix: {s: &d 1, t: *d}\n"
    assert read(text).holders == {"one", "two", "three"}


RECIPE = """\
{holder}
models: {{a: ./a, b: ./b}}
merge:
  <<: *shared
  method: slerp
"""


@pytest.mark.parametrize(
    "holder", ["shared: &shared {t: 0.3}", "x-any: &shared {t: 0.3}", "_: {deep: &shared {t: 0.3}}"]
)
def test_a_recipe_may_hold_anchors_under_keys_of_its_own(holder):
    assert load_recipe(RECIPE.format(holder=holder)).plain()["merge"]["t"] == 0.3


@pytest.mark.parametrize(
    ("holder", "hint"),
    [
        ("numbers: {t: &unused 0.3}\nx-any: &shared {t: 0.3}", "known here"),
        ("modles: &shared {t: 0.3}", "did you mean 'models'?"),  # a slip of the pen, whatever refers to it
    ],
)
def test_a_key_to_which_nothing_refers_is_unknown(holder, hint):
    with pytest.raises(RecipeError) as caught:
        load_recipe(RECIPE.format(holder=holder))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"models: {}\n# caf\xe9\n",
            "{file}:2:6: not text in UTF-8\n  why: the byte 0xe9 in this place is of no character",
        ),
        ("models: {}\n".encode("utf-16"), "{file}: not text in UTF-8\n  why: it is UTF-16\n  try: save it as UTF-8"),
        (b"\x08\0\0\0\0\0\0\0\xff", "{file}: not a recipe\n  why: it is no text"),
        (b"models: {}\n# \x07\n", "{file}:2:3: the character U+0007 cannot stand in YAML"),
    ],
)
def test_what_is_no_text_is_told_with_its_place(content, says, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    assert str(caught.value).startswith(says.format(file=file))


def test_a_recipe_that_is_not_there_names_its_neighbour(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    with pytest.raises(RecipeError, match=r"try: did you mean 'recipe\.yaml'"):
        load_recipe("recipe.yml")
    with pytest.raises(RecipeError, match="try: check the path"):
        load_recipe("other/zzz")
