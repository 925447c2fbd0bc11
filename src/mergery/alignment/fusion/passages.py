"""The texts that models are fused on: whole, and where in each what is to be learnt begins."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mergery.calibration.data import decoded
from mergery.errors import TaskError, Where
from mergery.evaluation.prompts import prompt_of, solution
from mergery.evaluation.reading import task_of

LETTERS = 1 << 20  # of plain text in one passage, about


class Passage(NamedTuple):
    """A text, and the letter at which its answer begins: 0 where all of it is to be learnt."""

    text: str
    answer: int = 0


class Passages(NamedTuple):
    """All texts of a file, and what tells the file from others."""

    passages: Sequence[Passage]
    sha256: str

    @property
    def letters(self) -> int:
        return sum(len(each.text) for each in self.passages)

    def shards(self, letters: int) -> Iterator[Sequence[Passage]]:
        """Passages in their order, about so many letters at a time."""
        some: list[Passage] = []
        held = 0
        for each in self.passages:
            some.append(each)
            held += len(each.text)
            if held >= letters:
                yield some
                some, held = [], 0
        if some:
            yield some


def read_passages(path: Path, limit: int | None = None, tokenizer: Any = None) -> Passages:
    """The first `limit` texts of a file: a task file of texts or of prompts with answers (.jsonl), or plain text.

    Raises TaskError, or Problems with all that is wrong, each with file:line:column.
    """
    where = Where(str(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = "give a text file, or JSON objects one a line (.jsonl)"
        raise TaskError("this file cannot be read", where=where, why=error.strerror or "", hint=hint) from None
    if path.suffix == ".jsonl":
        task = task_of(data, str(path))
        found: list[Passage] = []
        for item in task.items[:limit]:
            if "text" in item.fields:
                found.append(Passage(item.fields["text"]))
                continue
            if "answer" not in item.fields:
                what, hint = (
                    "this item has no answer to learn",
                    'write {"prompt": "...", "answer": "..."}, or {"text": "..."}',
                )
                raise TaskError(what, where=Where(task.file, item.line), hint=hint)
            prompt = prompt_of(item, task, tokenizer, chat=False)
            found.append(Passage(prompt + task.settings.delimiter + solution(item.fields, task), len(prompt.rstrip())))
    else:
        found = [Passage(text) for text in _parts(decoded(data, where))][:limit]
    if not any(each.text[each.answer :].strip() for each in found):
        hint = "write texts into it, as plain text or JSON objects one a line"
        raise TaskError("there is no text in it", where=where, hint=hint)
    return Passages(found, hashlib.sha256(data).hexdigest())


def _parts(text: str) -> Iterator[str]:
    """A long text in parts that end with a line."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + LETTERS)
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end
