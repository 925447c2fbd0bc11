"""Calibration data: the texts of a file as rows of tokens, each as long as it is, so that nothing is padded.

A `.jsonl` file is a task file of `mergery evaluate`: texts, or prompts with their answers. Any other file is plain text, which
is cut into rows of equal length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergery.errors import CheckpointError, TaskError, Where
from mergery.evaluation.labels import label_numbers
from mergery.evaluation.likelihood import NO_TOKEN, encode, split_pair
from mergery.evaluation.prompts import prompt_of, solution
from mergery.evaluation.reading import load_task, task_of
from mergery.evaluation.task import Item, Task

ROWS = 4096  # tokens of a batch


@dataclass(frozen=True)
class Row:
    """One text in tokens. The answer is what follows the prompt: all of it but the first token, where there is no prompt.

    label: the class of the text, where the file says it.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    label: int | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.prompt, *self.answer)


@dataclass(frozen=True)
class Texts:
    """All rows of a file, and what tells the file from others."""

    rows: tuple[Row, ...]
    file: str
    sha256: str

    @property
    def tokens(self) -> int:
        return sum(len(row.tokens) for row in self.rows)

    def batches(self, pair: bool) -> list[tuple[Row, ...]]:
        """Rows of equal length together, about 4096 tokens at a time; with `pair`, of equal prompts' and answers' lengths."""
        groups: dict[Any, list[Row]] = {}
        for row in self.rows:
            key = (len(row.prompt), len(row.answer)) if pair else len(row.tokens)
            groups.setdefault(key, []).append(row)
        found = []
        for group in groups.values():
            size = max(1, ROWS // max(1, len(group[0].tokens)))
            found += [tuple(group[start : start + size]) for start in range(0, len(group), size)]
        return found


def read_texts(
    path: Path,
    tokenizer: Any,
    *,
    longest: int,
    limit: int | None,
    pair: bool,
    config: dict[str, Any],
    content: bytes | None = None,
) -> Texts:
    """The first `limit` texts of a file, in rows of at most `longest` tokens.

    pair: whether prompts and answers are wanted apart, as a model of an encoder and a decoder takes them.
    content: of the file, where it is not to be read.
    Raises TaskError, or Problems with all that is wrong, each with file:line:column.
    """
    where = Where(str(path))
    try:
        data = path.read_bytes() if content is None else content
    except OSError as error:
        hint = "give a text file, or JSON objects one a line (.jsonl)"
        raise TaskError("this file cannot be read", where=where, why=error.strerror or "", hint=hint) from None
    if path.suffix == ".jsonl":
        task = load_task(path) if content is None else task_of(content, str(path))
        task = task.part(task.items[:limit], "")
        labels: Sequence[int | None] = [None] * len(task)
        if task.kind == "classification":
            labels = label_numbers(task, config)
        rows = [
            row
            for item, label in zip(task.items, labels, strict=True)
            for row in _rows_of(item, task, tokenizer, longest, label)
        ]
    else:
        rows = list(_cut(decoded(data, where), tokenizer, longest))[:limit]
    if not rows:
        hint = "write texts into it, as plain text or JSON objects one a line"
        raise TaskError("there is no text in it", where=where, why="its texts have no tokens", hint=hint)
    if pair and not all(row.prompt for row in rows):
        raise TaskError(
            "these are texts, not prompts with their answers",
            where=where,
            why="the model has an encoder, which reads prompts, and a decoder, which reads answers",
            hint='write {"prompt": "...", "answer": "..."}, one a line',
        )
    return Texts(tuple(rows), str(path), hashlib.sha256(data).hexdigest())


def decoded(data: bytes, where: Where) -> str:
    """The text of a file. Raises TaskError, with the place of what is no UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = data.count(b"\n", 0, error.start) + 1, error.start - data.rfind(b"\n", 0, error.start)
        at = Where(where.file, line, column)
        raise TaskError("this file is not valid UTF-8", where=at, why=error.reason, hint="save it as UTF-8") from None


def _rows_of(item: Item, task: Task, tokenizer: Any, longest: int, label: int | None) -> Iterator[Row]:
    """A text in windows, so that none of it is lost; of a prompt that is too long, its end."""
    if "text" in item.fields:
        tokens = encode(tokenizer, item.fields["text"], special=True)
        if label is not None:
            yield Row((), tuple(tokens[:longest]), label)
            return
        yield from _windows(tokens, longest)
        return
    prompt = prompt_of(item, task, tokenizer, chat=False)
    if "answer" not in item.fields:
        tokens = encode(tokenizer, prompt, special=True)
        yield from _windows(tokens, longest)
        return
    before, after = split_pair(tokenizer, prompt, task.settings.delimiter + solution(item.fields, task))
    if not after:
        raise TaskError("the tokenizer gives this answer no token", where=Where(task.file, item.line), hint=NO_TOKEN)
    after = after[:longest]
    before = before[max(0, len(before) - max(1, longest - len(after))) :]
    yield Row(tuple(before), tuple(after))


def _cut(text: str, tokenizer: Any, longest: int) -> Iterator[Row]:
    yield from _windows(encode(tokenizer, text, special=True), longest)


def _windows(tokens: Sequence[int], longest: int) -> Iterator[Row]:
    for start in range(0, len(tokens), longest):
        yield Row((), tuple(tokens[start : start + longest]))


def inputs_of(rows: Sequence[Row], config: Any) -> dict[str, Any]:
    """What the model is given for rows of equal length."""
    import torch

    if not getattr(config, "is_encoder_decoder", False):
        ids = torch.tensor([row.tokens for row in rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    ids = torch.tensor([row.prompt for row in rows])
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        raise CheckpointError("config.json has no decoder_start_token_id", hint="the decoder's first token")
    before = torch.tensor([[start, *row.answer[:-1]] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": before}
