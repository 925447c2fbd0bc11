"""From an item to the text that a model sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.errors import CheckpointError
from mergery.evaluation.fields import LETTERS
from mergery.evaluation.task import Item, Task

BETWEEN = "\n\n"  # solved examples, and the question after them


def prompt_of(item: Item, task: Task, tokenizer: Any, *, chat: bool) -> str:
    """All that stands before the answer: solved examples, then the question; as a conversation with `chat`."""
    examples = task.settings.examples
    if not chat:
        solved = [ask(example, task) + task.settings.delimiter + solution(example, task) for example in examples]
        return BETWEEN.join([*solved, ask(item.fields, task)])
    messages = []
    for example in examples:
        messages.append({"role": "user", "content": ask(example, task)})
        messages.append({"role": "assistant", "content": solution(example, task)})
    messages.append({"role": "user", "content": ask(item.fields, task)})
    if not getattr(tokenizer, "chat_template", None):
        raise CheckpointError("the tokenizer has no chat template", hint="leave out --chat")
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def ask(fields: Mapping[str, Any], task: Task) -> str:
    """A prompt as it is; a question in the usual frame, with its choices where letters are scored."""
    listed = ""
    if task.settings.letters:
        pairs = zip(LETTERS, fields["choices"], strict=False)
        listed = "".join(f"\n{letter}. {choice}" for letter, choice in pairs)
    if "prompt" in fields:
        return fields["prompt"] + listed
    return f"Question: {fields['question']}{listed}\nAnswer:"


def options(fields: Mapping[str, Any], task: Task) -> list[str]:
    """The texts whose likelihood is compared."""
    choices = list(fields["choices"])
    return list(LETTERS[: len(choices)]) if task.settings.letters else choices


def solution(fields: Mapping[str, Any], task: Task) -> str:
    """The right answer in words, for a solved example."""
    if task.kind == "choice":
        return options(fields, task)[fields["answer"]]
    answer = fields["answer"]
    return answer if isinstance(answer, str) else answer[0]
