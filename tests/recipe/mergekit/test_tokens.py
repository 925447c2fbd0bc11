"""What a mergekit file says of tokens, as a recipe says it."""

from __future__ import annotations

import pytest

from mergery.checkpoints.tokenizer.chat_templates import named_template
from mergery.recipe import TokenRow, Vocabulary
from mergery.recipe.reading import load_recipe
from tests.recipe.mergekit.conftest import Read, Refuse

PAIR = "merge_method: linear\nparameters: {weight: 1}\nmodels:\n  - model: a\n  - model: b\n"
TASKS = "merge_method: task_arithmetic\nparameters: {weight: 1}\nbase_model: a\nmodels:\n  - model: b\n"


def cut(source: str, **more: object) -> Vocabulary:
    """mergekit's rules: no padding is kept, and rows that no model has are zeros."""
    return Vocabulary(source, padding="cut", unknown="zero", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "vocabulary"),
    [
        (PAIR + "tokenizer_source: union\n", cut("union")),
        (PAIR + "tokenizer: {}\n", cut("union")),  # as mergekit writes {source: union}
        (PAIR + "tokenizer: {source: null}\n", cut("union")),
        (PAIR + "tokenizer:\n", None),
        (PAIR + "tokenizer: {pad_to_multiple_of: 64}\n", cut("union", pad_to_multiple_of=64)),
        (PAIR + "tokenizer_source: base\n", cut("base")),
        (PAIR + "tokenizer_source: b\n", cut("b")),
        (PAIR + "tokenizer_source: {model: {path: b}}\n", cut("b")),
        (PAIR + "tokenizer_source: org/other@v1\n", cut("other")),
        (PAIR + "base_model: b\ntokenizer_source: base\n", cut("b", base="b")),
        (TASKS + "tokenizer_source: union\n", cut("union")),  # the base of the merge fills what others lack anyway
        (TASKS + "tokenizer: {source: base}\n", cut("a")),
    ],
)
def test_sources(read: Read, text: str, vocabulary: Vocabulary | None) -> None:
    assert read(text).vocabulary == vocabulary


def test_single_tokens(read: Read) -> None:
    text = """tokenizer:
  source: union
  tokens:
    "<a>": {source: b}
    "<b>": {source: {kind: model_token, model: a, token: "<x>"}, force: true}
    "<c>": {source: {kind: model_token, model: a, token_id: 7}}
    "<d>": {source: {kind: zero}}
    "<e>": {}
"""
    vocabulary = read(PAIR + text).vocabulary
    assert vocabulary is not None
    assert vocabulary.tokens == {
        "<a>": TokenRow("b"),
        "<b>": TokenRow("a", "<x>", force=True),
        "<c>": TokenRow("a", id=7),
        "<d>": TokenRow(),
    }
    assert vocabulary.add == dict.fromkeys(["<a>", "<b>", "<c>", "<d>", "<e>"], False)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("tokenizer: {tokens: {x: {force: true}}}",
         "6:33: force needs a source\n  why: mergekit stops there\n"
         "  try: {source: <model>}, or {source: {kind: model_token, model: …, token: …}}"),
        ("tokenizer: {tokens: {x: {source: {kind: nil}}}}", "6:41: unknown kind 'nil'\n  try: known here: model_token, zero"),
        ("tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}",
         "6:34: a model_token has one of 'token' and 'token_id'\n  try: token: \"<tool>\""),
        ("tokenizer: {tokens: {x: 3}}",
         "6:25: 3 says no row\n  try: {source: <model>}, or {source: {kind: model_token, model: …, token: …}}"),
        ("tokenizer: {tokens: [x]}", "6:21: tokens must map tokens to their rows\n"
         '  try: tokens: {"<tool>": {source: ./a}}'),
        ("tokenizer: {pad_to_multiple_of: 0.5}",
         "6:33: pad_to_multiple_of is 0.5\n  why: it must be a whole number from 1\n  try: pad_to_multiple_of: 64"),
        ("chat_template: chatmi",
         "6:16: chat_template is 'chatmi'\n"
         "  why: it is no named template, and no Jinja of 20 characters or more\n  try: did you mean 'chatml'?"),
    ],
)  # fmt: skip
def test_what_is_refused(refuse: Refuse, lines: str, message: str) -> None:
    assert refuse(PAIR + lines + "\n") == [message]


def test_chat_templates(read: Read) -> None:
    assert read(PAIR + "chat_template: auto\n").output.chat_template == "auto"
    assert read(PAIR + "chat_template: chatml\n").output.chat_template == "chatml"
    jinja = "{{ messages[0]['content'] }}"
    assert read(PAIR + f'chat_template: "{jinja}"\n').output.chat_template == jinja


def test_a_template_with_the_name_of_a_model_is_written_out(read: Read) -> None:
    text = PAIR.replace("model: b", "model: mistral") + "chat_template: mistral\n"
    assert read(text).output.chat_template == named_template("mistral")


def one(said: str = "") -> str:
    """A merge called `one`, of c and b, and what it says of tokens."""
    return "name: one\n" + PAIR.replace("model: a", "model: c") + said + "---\n"


@pytest.mark.parametrize(
    ("stage", "last", "vocabulary"),
    [
        ("", "tokenizer_source: one\n", cut("c")),  # that of the first model, as config and files are
        ("base_model: b\n", "tokenizer_source: one\n", cut("b")),
        ("", "tokenizer: {source: one, pad_to_multiple_of: 8}\n", cut("c", pad_to_multiple_of=8)),
        ("tokenizer_source: union\n", "tokenizer_source: one\n", cut("union")),
        ("tokenizer_source: org/d\n", "tokenizer: {source: one, tokens: {<x>: {}}}\n", cut("d", add={"<x>": False})),
        ("tokenizer_source: union\n", "", None),  # the first model gives config and tokenizer, and that is a
        ("tokenizer_source: union\n", "base_model: one\ntokenizer_source: base\n", cut("union")),
    ],
)
def test_a_merge_of_the_same_file_gives_the_tokenizer(read: Read, stage: str, last: str, vocabulary: object) -> None:
    text = one(stage) + PAIR.replace("model: b", "model: one") + last
    recipe = read(text)
    assert recipe.vocabulary == vocabulary
    assert load_recipe(recipe.plain()).vocabulary == vocabulary


def test_a_merge_that_gives_its_tokenizer_alone(read: Read) -> None:
    recipe = read(one() + PAIR + "tokenizer_source: one\n")
    assert list(recipe.models) == ["a", "b", "c"]
    assert recipe.vocabulary == cut("c")


def test_single_rows_are_of_stored_models(refuse: Refuse) -> None:
    text = one() + PAIR.replace("model: b", "model: one") + "tokenizer: {tokens: {<x>: {source: one}}}\n"
    assert refuse(text) == [
        "13:27: the row of a token is that of the merge 'one'\n"
        "  why: only stored models give single rows\n  try: name one of its models: c, b"
    ]


def test_tokenizers_that_go_in_circles(refuse: Refuse) -> None:
    text = "name: x\n" + PAIR.replace("model: a", "model: y") + "---\nname: y\n" + PAIR.replace("model: a", "model: x")
    message = "8:7: the merge 'y' needs itself\n  why: y -> x -> y\n  try: name another model"
    assert message in refuse(text + "---\n" + PAIR + "tokenizer_source: x\n")
