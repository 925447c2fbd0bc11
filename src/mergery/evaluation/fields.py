"""What the fields of an item must be, by the kind of its task."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from mergery.evaluation.jsonlines import Line

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PROMPTS = ("prompt", "question")
FIELDS = {
    "perplexity": ("text",),
    "choice": (*PROMPTS, "choices", "answer"),
    "generation": (*PROMPTS, "answer", "pattern"),
    "classification": ("text", "label"),
}
COMMON = ("id", "category")
SAMPLES = {
    "choices": '["yes", "no"]', "answer": "0", "label": "0", "letters": "true", "stop": r'["\n"]', "ignore": '["source"]',
    "block": '["<think>", "</think>"]', "length": "true",
}  # fmt: skip
"""Values of the fields and settings that are not text."""


class Checks:
    """The fields of one item: a method for each kind tells what is wrong to `told`, which takes line and column."""

    def __init__(self, line: Line, fields: Mapping[str, Any], told: Callable[..., None], *, letters: bool) -> None:
        self.line, self.fields, self.told, self.letters = line, fields, told, letters

    def fail(self, what: str, name: str = "", *, hint: str, why: str = "") -> None:
        self.told(what, self.line.number, self.line.columns.get(name, 1), why=why, hint=hint)

    def has(self, name: str) -> bool:
        if name not in self.fields:
            near = [key for key in self.line.values if key not in COMMON]
            why = f"it has {', '.join(map(repr, near)) or 'no fields'}"
            self.fail(f"the item has no {name!r}", why=why, hint=f"such as {sample(name)}")
        return name in self.fields

    def text(self, name: str) -> bool:
        """Whether there is a text of that name, not empty."""
        if not self.has(name):
            return False
        value = self.fields[name]
        if not isinstance(value, str) or not value:
            empty = isinstance(value, str)
            why = "it must not be empty" if empty else "it must be text"
            hint = "fill it in, or remove the item" if empty else f"such as {sample(name)}"
            self.fail(f"{name} is {say(value)}", name, why=why, hint=hint)
            return False
        return True

    def prompt(self) -> None:
        given = [name for name in PROMPTS if name in self.fields]
        if len(given) == 2:
            self.fail("an item has a prompt or a question, not both", "question", hint="remove one of them")
        self.text(given[0] if given else "prompt")

    def perplexity(self) -> None:
        self.text("text")

    def choice(self) -> None:
        self.prompt()
        if not self.has("choices"):
            return
        choices = self.fields["choices"]
        if not is_texts(choices) or len(choices) < 2 or not all(choices):
            why, hint = "it must be a list of two or more texts, none empty", f"such as {sample('choices')}"
            self.fail(f"choices is {say(choices)}", "choices", why=why, hint=hint)
            return
        if len(set(choices)) < len(choices):
            why, hint = "which of them is chosen would be left to chance", "remove one, and count 'answer' anew"
            self.fail("two choices are the same", "choices", why=why, hint=hint)
        if self.letters and len(choices) > len(LETTERS):
            why = f"{len(choices)} choices and {len(LETTERS)} letters"
            self.fail(
                "there are more choices than letters",
                "choices",
                why=why,
                hint="leave out 'letters', to score the texts themselves",
            )
        if not self.has("answer"):
            return
        answer = self.fields["answer"]
        why = f"it is the number of the right choice, from 0 to {len(choices) - 1}"
        at = choices.index(answer) if isinstance(answer, str) and answer in choices else 0
        hint = f'such as "answer": {at}'
        if not isinstance(answer, int) or isinstance(answer, bool):
            self.fail(f"answer is {say(answer)}", "answer", why=why, hint=hint)
        elif not 0 <= answer < len(choices):
            self.fail(f"answer {answer} is out of range", "answer", why=why, hint="the first choice is 0")

    def generation(self) -> None:
        self.prompt()
        if ("answer" in self.fields) == ("pattern" in self.fields):
            found = "both" if "answer" in self.fields else "neither"
            why, hint = f"this one has {found}", "keep one" if found == "both" else '"answer": "..."'
            self.fail("an item has an 'answer' or a 'pattern'", "pattern", why=why, hint=hint)
            return
        if "answer" in self.fields:
            answer = self.fields["answer"]
            if not (isinstance(answer, str) and answer.strip()) and not (
                is_texts(answer) and answer and all(text.strip() for text in answer)
            ):
                why, hint = "it must be text, or a list of texts that are all right", 'such as "answer": ["4", "four"]'
                self.fail(f"answer is {say(answer)}", "answer", why=why, hint=hint)
        elif self.text("pattern"):
            try:
                re.compile(self.fields["pattern"])
            except re.error as error:
                hint = r"put \\ before ( [ * + ? where they stand for themselves"
                self.fail("pattern is no regular expression", "pattern", why=str(error), hint=hint)

    def classification(self) -> None:
        self.text("text")
        if not self.has("label"):
            return
        label = self.fields["label"]
        number = isinstance(label, int) and not isinstance(label, bool) and label >= 0
        if not number and not (isinstance(label, str) and label):
            why = "it must be a number from 0, or a name that the model's config knows"
            self.fail(f"label is {say(label)}", "label", why=why, hint=f"such as {sample('label')}")


def sample(name: str) -> str:
    """A field or a setting as a line has it."""
    value = SAMPLES.get(name, '"..."')
    return f'"{name}": {value}'


def kind_of(values: Mapping[str, Any]) -> str:
    """The kind that fields tell, empty where they tell none."""
    if "choices" in values:
        return "choice"
    if "prompt" in values or "question" in values or "pattern" in values:
        return "generation"
    if "label" in values:
        return "classification"
    return "perplexity" if "text" in values else ""


def is_texts(value: Any) -> bool:
    """Whether it is a list of texts, which may be empty."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def say(value: Any) -> str:
    """A value for a message, shortened."""
    return reprlib.repr(value)
