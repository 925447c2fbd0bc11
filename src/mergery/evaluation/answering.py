"""From items to results: what each kind of task needs from a model, and what it makes of that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergery.errors import DataError, Where
from mergery.evaluation.generation import Generator, after_block, matches, prompt_tokens
from mergery.evaluation.labels import label_logs, label_numbers, label_tokens
from mergery.evaluation.likelihood import Scorer, Span, choice_spans, text_spans
from mergery.evaluation.loading import Loaded
from mergery.evaluation.options import EvaluationOptions
from mergery.evaluation.prompts import options as choices_of
from mergery.evaluation.results import Outcome
from mergery.evaluation.task import Item, Task


@dataclass(frozen=True)
class Piece:
    """An item with its tokens."""

    item: Item
    spans: tuple[Span, ...] = ()  # of perplexity and choice tasks
    tokens: tuple[int, ...] = ()  # of a generation's prompt
    inputs: dict[str, list[int]] | None = None  # of a classifier
    label: int = -1
    cut: int = 0  # tokens left out because the model cannot take more

    @property
    def length(self) -> int:
        if self.inputs is not None:
            return len(self.inputs["input_ids"])
        return max((len(before) + len(after) for before, after in self.spans), default=len(self.tokens))

    @property
    def rows(self) -> int:
        """Rows of a batch that the item takes: spans that differ in the last token alone are one."""
        return len({tuple(before + after[:-1]) for before, after in self.spans}) or 1


def prepare(task: Task, loaded: Loaded, options: EvaluationOptions, longest: int) -> list[Piece]:
    """Every item with its tokens."""
    chat = options.chat
    if task.kind == "perplexity":
        return [Piece(item, tuple(text_spans(item, task, loaded, longest))) for item in task.items]
    if task.kind == "choice":
        pieces = []
        for item in task.items:
            spans = choice_spans(item, task, loaded, chat=chat)
            over = max(len(before) + len(after) for before, after in spans) - longest - 1
            pieces.append(Piece(item, tuple(spans), cut=max(0, over)))
        return pieces
    if task.kind == "generation":
        prompts = [prompt_tokens(item, task, loaded, longest, chat=chat) for item in task.items]
        return [Piece(item, tokens=tuple(ids), cut=cut) for item, (ids, cut) in zip(task.items, prompts, strict=True)]
    numbers = label_numbers(task, loaded.config.to_dict())
    inputs = label_tokens([item.fields["text"] for item in task.items], loaded, longest)
    whole = label_tokens([item.fields["text"] for item in task.items], loaded, 1 << 30)
    return [
        Piece(item, inputs=one, label=number, cut=len(full["input_ids"]) - len(one["input_ids"]))
        for item, one, full, number in zip(task.items, inputs, whole, numbers, strict=True)
    ]


def batches(pieces: Sequence[Piece], size: int) -> Iterator[list[Piece]]:
    """Items of like length together, the longest first, at most `size` rows or one item at once."""
    order = sorted(range(len(pieces)), key=lambda index: (-pieces[index].length, index))
    batch: list[Piece] = []
    rows = 0
    for index in order:
        if batch and rows + pieces[index].rows > size:
            yield batch
            batch, rows = [], 0
        batch.append(pieces[index])
        rows += pieces[index].rows
    if batch:
        yield batch


def answer(
    task: Task, batch: Sequence[Piece], loaded: Loaded, options: EvaluationOptions, longest: int
) -> list[Outcome]:
    """What a batch of items gave. Raises DataError where the model answers with NaN, of which any score could be made."""
    if task.kind == "generation":
        generator = Generator(loaded, longest)
        prompts = [list(piece.tokens) for piece in batch]
        settings = task.settings
        made = generator.generate(prompts, settings.stop, settings.max_tokens, special=bool(settings.block))
        _check(task, batch, [math.nan if each is None else 0.0 for each in made])
        return [_generated(piece, *each, task) for piece, each in zip(batch, made, strict=True) if each is not None]
    if task.kind == "classification":
        logs = label_logs([piece.inputs for piece in batch if piece.inputs is not None], loaded)
        _check(task, batch, logs.sum(1))
        return [_labelled(piece, row) for piece, row in zip(batch, logs, strict=True)]
    flat = [span for piece in batch for span in piece.spans]
    scores = iter(Scorer(loaded, options.batch, longest).score(flat).tolist())
    results = [[next(scores) for _ in piece.spans] for piece in batch]
    _check(task, batch, [sum(each) for each in results])
    make = _chosen if task.kind == "choice" else _read
    return [make(piece, logs, task) for piece, logs in zip(batch, results, strict=True)]


def _check(task: Task, batch: Sequence[Piece], sums: Sequence[float]) -> None:
    """Raise DataError at the first item of which the model says NaN."""
    for piece, total in zip(batch, sums, strict=True):
        if math.isnan(total):
            why = "its weights hold NaN, or what it computes overflows in the type that it is loaded in"
            where = Where(task.file, piece.item.line)
            raise DataError(
                "the model answers NaN",
                where=where,
                why=why,
                hint="--dtype float32 where it was another, else another checkpoint",
            )


def _outcome(
    piece: Piece, values: dict[str, float], weights: dict[str, float] | None = None, **details: Any
) -> Outcome:
    cut = {"cut": piece.cut} if piece.cut else {}
    return Outcome(piece.item.id, piece.item.category, values, weights or {}, {**details, **cut})


def _read(piece: Piece, logs: list[float], task: Task) -> Outcome:
    """Perplexities: bits for each byte of UTF-8, nats for each token."""
    total = -math.fsum(logs)
    nbytes = len(piece.item.fields["text"].encode())
    tokens = sum(len(after) for _, after in piece.spans)
    bits = total / math.log(2) / nbytes
    return _outcome(
        piece,
        {"bits_per_byte": bits, "byte_perplexity": bits, "perplexity": total / tokens},
        {"bits_per_byte": nbytes, "byte_perplexity": nbytes, "perplexity": tokens},
    )


def _chosen(piece: Piece, logs: list[float], task: Task) -> Outcome:
    """The likeliest choice, and the likeliest for each byte of it."""
    lengths = np.array([len(choice.encode()) for choice in choices_of(piece.item.fields, task)], np.float64)
    right = piece.item.fields["answer"]
    chosen, normalised = int(np.argmax(logs)), int(np.argmax(np.array(logs) / lengths))
    values = {"accuracy": float(chosen == right), "accuracy_normalised": float(normalised == right)}
    return _outcome(piece, values, chosen=chosen, chosen_normalised=normalised, logs=logs)


def _generated(piece: Piece, text: str, tokens: int, task: Task) -> Outcome:
    """Whether it is the answer; of one that stands behind a block, whether that is closed."""
    settings, values = task.settings, {}
    answer = text
    if settings.block:
        answer, closed = after_block(text, *settings.block)
        values["closed"] = float(closed)
    if settings.block or settings.length:
        values["length"] = float(tokens)
    return _outcome(piece, {"match": float(matches(answer, piece.item)), **values}, text=text)


def _labelled(piece: Piece, logs: np.ndarray) -> Outcome:
    chosen = int(np.argmax(logs))
    values = {"accuracy": float(chosen == piece.label), "log_loss": -float(logs[piece.label])}
    return _outcome(piece, values, chosen=chosen)
