"""Chat templates: named ones, a model's, the one that most share; samples of hostile ones end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mergery.checkpoints.tokenizer.chat_templates import (
    choose_template,
    conflict,
    named_template,
    named_templates,
    read_template,
    sample,
)
from mergery.checkpoints.tokenizer.render_template import render
from mergery.errors import CheckpointError, RecipeError
from tests.checkpoints.tokenizer.test_reading import Files
from tests.views.vocabulary.texts import ENGLISH, byte_bpe, save

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
]
LAST = [*TALK, {"role": "user", "content": "Bye"}]
WANTED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
    "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
    "Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s> [INST] Be brief.\n\nHi [/INST] Ho</s> [INST] Bye [/INST]",
    "gemma": "<s><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n"
    "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Ho[|endofturn|]\n[|user|]Bye\n[|assistant|]",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHo</s>\n\n### Instruction:\nBye\n\n### Response:\n",
}


@pytest.mark.parametrize("name", named_templates())
def test_named_templates(name: str) -> None:
    assert render(named_template(name), LAST, {"bos_token": "<s>", "eos_token": "</s>"}) == WANTED[name]


def test_templates_render_as_transformers_renders_them(tmp_path: Path) -> None:
    save(byte_bpe(ENGLISH, 280), tmp_path, bos_token="<s>", eos_token="</s>")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for name in named_templates():
        theirs = tokenizer.apply_chat_template(
            LAST, chat_template=named_template(name), tokenize=False, add_generation_prompt=True
        )
        assert theirs == WANTED[name]


def test_turns_must_alternate() -> None:
    with pytest.raises(ValueError, match="alternate"):
        render(named_template("mistral"), [*LAST, LAST[-1]], {"bos_token": "", "eos_token": ""})


def test_where_templates_stand() -> None:
    assert read_template(Files(tokenizer_config_json={"chat_template": "{{ 1 }}"})) == "{{ 1 }}"
    several = [{"name": "tool_use", "template": "{{ 2 }}"}, {"name": "default", "template": "{{ 3 }}"}]
    assert read_template(Files(tokenizer_config_json={"chat_template": several})) == "{{ 3 }}"
    both: Any = {"chat_template.jinja": b"{{ 4 }}", "tokenizer_config_json": {"chat_template": "{{ 1 }}"}}
    assert read_template(Files(**both)) == "{{ 4 }}"
    assert read_template(Files(tokenizer_config_json={})) is None
    with pytest.raises(CheckpointError, match="not valid UTF-8"):
        read_template(Files(**{"chat_template.jinja": b"\xff"}))


def test_auto_takes_what_most_models_have_and_the_first_of_equals() -> None:
    own = {"a": "{{ 1 }}", "b": "{{ 2 }}", "c": "{{ 2 }}\n", "d": None}
    assert choose_template("auto", own, own) == "{{ 2 }}"
    assert choose_template("auto", {"a": "{{ 1 }}", "b": "{{ 2 }}"}, own) == "{{ 1 }}"
    assert choose_template("a", own, own) == "{{ 1 }}"
    assert choose_template("chatml", own, own) == named_template("chatml")
    assert choose_template("{{ 7 }}", own, own) == "{{ 7 }}"
    with pytest.raises(RecipeError, match="the model 'd' has no chat template"):
        choose_template("d", own, own)
    with pytest.raises(RecipeError, match="chat_template is auto, but no model has a chat template"):
        choose_template("auto", {"d": None}, own)


def test_conflicts_are_told() -> None:
    assert conflict({"a": "{{ 1 }}", "b": "{{ 1 }} ", "c": None}) is None
    assert conflict({"a": "{{ 1 }}", "b": "{{ 2 }}", "c": "{{ 1 }}"}) == (
        "the chat templates of a, c and b differ; output.chat_template says which one the output takes"
    )


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "too much time or memory"),
        ("{% set s = namespace(x='a' * 999) %}" + "{% set s.x = s.x ~ s.x %}" * 40 + "{{ s.x }}", "MemoryError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% if %}", "TemplateSyntaxError"),
        ("x" * 200_000, "the template has 200,000 characters"),
    ],
)
def test_samples_of_hostile_templates_end(template: str, error: str) -> None:
    assert error in sample(template, {})["error"]


def test_a_sample() -> None:
    assert sample(named_template("mistral"), {"bos_token": "<s>", "eos_token": "</s>"}) == {
        "text": "<s> [INST] Hello! [/INST] Good day.</s> [INST] How are you? [/INST]"
    }
