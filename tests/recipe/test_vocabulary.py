"""The section `vocabulary`, `output.tokenizer` and `output.chat_template`: read strictly, with line and column."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest

from mergery.checkpoints.tokenizer.chat_templates import named_templates
from mergery.errors import MergeryError, Problems
from mergery.recipe import TokenRow, Vocabulary
from mergery.recipe.document import read_documents, write_yaml
from mergery.recipe.reading import load_recipe
from mergery.recipe.schema import recipe_schema
from mergery.recipe.vocabulary import UNKNOWN

HEAD = "models: {base: ./base, chat: ./chat}\nmerge: {method: linear}\n"
FULL = """vocabulary:
  from: union
  base: base
  tokens:
    "<|im_start|>": {from: chat}
    "<tool>": {like: "<|im_start|>", of: chat}
    "<pad>": zero
    "<x>": {id: 5, of: base}
    "<|eot|>": {from: chat, force: true}
    "<z>": {zero: true, force: true}
  add: ["<new>", {token: plain, special: false}]
  pad_to_multiple_of: 64
  padding: cut
  unknown: {omp: 32}
"""


def test_all_of_it() -> None:
    vocabulary = load_recipe(HEAD + FULL).vocabulary
    assert vocabulary == Vocabulary(
        "union",
        "base",
        {
            "<|im_start|>": TokenRow("chat"),
            "<tool>": TokenRow("chat", "<|im_start|>"),
            "<pad>": TokenRow(),
            "<x>": TokenRow("base", id=5),
            "<|eot|>": TokenRow("chat", force=True),
            "<z>": TokenRow(force=True),
        },
        {"<new>": True, "plain": False},
        64,
        "cut",
        "omp",
        32,
    )
    assert vocabulary.models() == ("union", "base", "chat")


@pytest.mark.parametrize(
    "text", [HEAD + FULL, HEAD + "vocabulary: {}\n", HEAD + "output: {tokenizer: union, chat_template: auto}\n"]
)
def test_it_reads_back_as_it_was_and_keeps_to_the_schema(text: str) -> None:
    recipe = load_recipe(text)
    plain = recipe.plain()
    again = load_recipe(write_yaml(plain), folder=Path())
    assert (again.vocabulary, again.output) == (recipe.vocabulary, recipe.output)
    validator = jsonschema.Draft202012Validator(recipe_schema())
    validator.validate(plain)
    validator.validate(read_documents(text, "recipe")[0].data)


def test_the_short_form() -> None:
    assert load_recipe(HEAD).wanted_vocabulary is None
    assert load_recipe(HEAD + "output: {tokenizer: chat}\n").wanted_vocabulary == Vocabulary("chat")
    assert load_recipe(HEAD + "output: {tokenizer: union}\n").wanted_vocabulary == Vocabulary("union")


ROW = "zero, {from: <model>}, {like: <token>, of: <model>} or {id: <number>, of: <model>}"


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        ("output: {tokenizer: chta}", ["3:21: unknown model 'chta'\n  try: did you mean 'chat'?"]),
        (
            "output: {tokenizer: base}\nvocabulary: {from: union}",
            ["3:21: output.tokenizer and vocabulary say the same thing twice\n  try: keep 'vocabulary', with 'from'"],
        ),
        (
            "output: {chat_template: chatmi}",
            [
                "3:25: unknown chat template 'chatmi'\n  why: it is no model, no named template, and no Jinja\n"
                "  try: did you mean 'chatml'?"
            ],
        ),
        ("output: {chat_template: 3}", ["3:25: chat_template is 3\n  try: auto, a model, a named template, or Jinja"]),
        ("vocabulary: union", ["3:13: vocabulary must be a mapping\n  try: vocabulary: {from: union}"]),
        ("vocabulary: {form: union}", ["3:14: unknown key 'form'\n  try: did you mean 'from'?"]),
        ("vocabulary: {base: b}", ["3:20: unknown model 'b'\n  try: known here: base, chat"]),
        (
            "vocabulary: {tokens: {x: one}}",
            [f"3:26: 'one' says no row\n  try: {ROW}"],
        ),
        (
            "vocabulary: {tokens: {x: {from: chat, like: y}}}",
            [f"3:26: a row has one of 'from', 'like', 'id' and 'zero'\n  why: here: from, like\n  try: {ROW}"],
        ),
        ("vocabulary: {tokens: {x: {like: y}}}", ["3:26: 'like' needs 'of'\n  try: {like: 'y', of: <model>}"]),
        (
            "vocabulary: {tokens: {x: {id: y, of: chat}}}",
            ["3:31: id is 'y'\n  why: it must be a whole number, zero or more\n  try: id: 5"],
        ),
        ("vocabulary: {tokens: {x: {like: 3, of: chat}}}", ["3:33: 3 is no token\n  try: put it in quotes"]),
        (
            "vocabulary: {tokens: {x: {from: chat, of: base}}}",
            ["3:39: 'of' belongs to 'like' and 'id'\n  try: from: <model>"],
        ),
        (
            "vocabulary: {tokens: {x: {from: chat, force: 1}}}",
            ["3:46: force is 1\n  why: it must be true or false\n  try: force: true"],
        ),
        (
            "vocabulary: {tokens: {x: {zero: 1}}}",
            ["3:26: zeros are of no model\n  try: zero, or {zero: true, force: true}"],
        ),
        (
            "vocabulary: {tokens: [x]}",
            ['3:22: tokens must map tokens to their rows\n  try: tokens: {"<tool>": {from: chat}}'],
        ),
        ("vocabulary: {add: x}", ['3:19: add must be a list of tokens\n  try: add: ["<tool>"]']),
        ("vocabulary: {add: [3]}", ["3:20: 3 is no token\n  try: put it in quotes"]),
        ("vocabulary: {add: [x, x]}", ["3:23: the token 'x' stands twice\n  try: keep one of them"]),
        (
            "vocabulary: {add: [{token: x, special: 1}]}",
            ["3:40: special is 1\n  why: it must be true or false\n  try: special: true"],
        ),
        (
            "vocabulary: {pad_to_multiple_of: 0}",
            [
                "3:34: pad_to_multiple_of is 0\n  why: it must be a whole number from 1 to 1,048,576\n"
                "  try: pad_to_multiple_of: 64"
            ],
        ),
        ("vocabulary: {padding: no way}", ["3:23: padding is 'no way'\n  try: one of keep, cut"]),
        ("vocabulary: {unknown: guess}", ["3:23: unknown is 'guess'\n  try: one of mean, zero, random, subword, omp"]),
        (
            "vocabulary: {unknown: {omp: 0}}",
            [
                "3:29: omp is 0\n  why: it is the number of tokens of which a row is made: "
                "a whole number from 1 to 4,096\n  try: omp: 64"
            ],
        ),
    ],
)
def test_what_is_refused(lines: str, messages: list[str]) -> None:
    with pytest.raises(MergeryError) as caught:
        load_recipe(HEAD + lines + "\n")
    errors = caught.value.errors if isinstance(caught.value, Problems) else (caught.value,)
    assert [str(error).removeprefix("recipe:") for error in errors] == messages


def test_a_model_called_union() -> None:
    text = HEAD.replace("chat", "union") + "output: {tokenizer: union}\n"
    with pytest.raises(MergeryError, match="'union' is a model and the word for all models' tokens"):
        load_recipe(text)


def test_the_recipes_of_the_page_are_recipes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "vocabulary.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.S)
    assert [load_recipe(block).wanted_vocabulary is not None for block in blocks] == [True, True]
    assert set(re.findall(r"^\| `(\w+)`", page.split("| `unknown` |")[1].split("\n\n")[0], re.M)) == set(UNKNOWN)
    assert all(f"`{name}`" in page for name in named_templates())
