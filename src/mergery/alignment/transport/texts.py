"""One set of texts in the tokens of two models, and the places in them at which these are compared.

A text is kept for both models or for neither. Where one is too long for either, both read the same shorter text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mergery.calibration.sources import DATASETS, items_of
from mergery.errors import CheckpointError, TaskError, Where
from mergery.evaluation.likelihood import encode
from mergery.evaluation.prompts import prompt_of, solution
from mergery.evaluation.reading import load_task

PIECE = 3  # characters of a plain text for each token that a piece of it may have


class Tokens(NamedTuple):
    """A text in a model's tokens, and the places of those whose activations are compared; none where their mean is."""

    ids: tuple[int, ...]
    places: tuple[int, ...]


@dataclass(frozen=True)
class Paired:
    """Texts in the tokens of target and source, in one order, and the number of rows that they give in both."""

    target: tuple[Tokens, ...]
    source: tuple[Tokens, ...]
    rows: int
    dropped: int  # texts that one of the models has no tokens for
    sha256: str  # of the texts


def texts_in(data: str, limit: int | None, longest: int) -> list[str]:
    """The texts of a task file (.jsonl), a data set (`datasets:NAME`) or a plain text, which is cut at ends of lines.

    Raises TaskError where there are none, or they cannot be read.
    """
    if data.startswith(DATASETS):
        return list(items_of(data, limit))
    path = Path(data).expanduser()
    if path.suffix == ".jsonl":
        task = load_task(path)
        return [_text(item, task) for item in task.items[:limit]]
    where, hint = Where(str(path)), "give a text file, or JSON objects one a line (.jsonl)"
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or getattr(error, "reason", "")
        raise TaskError("this file cannot be read", where=where, why=str(why), hint=hint) from None
    found = list(_pieces(text, PIECE * longest))[:limit]
    if not found:
        raise TaskError("there is no text in it", where=where, hint="write texts into it")
    return found


def _text(item: Any, task: Any) -> str:
    if "text" in item.fields:
        return str(item.fields["text"])
    prompt = prompt_of(item, task, None, chat=False)
    return prompt + task.settings.delimiter + solution(item.fields, task) if "answer" in item.fields else prompt


def _pieces(text: str, most: int) -> Iterator[str]:
    piece = ""
    for line in text.splitlines(keepends=True):
        if piece.strip() and len(piece) + len(line) > most:
            yield piece
            piece = ""
        piece += line
    if piece.strip():
        yield piece


def pair(texts: list[str], words: tuple[Any, Any], longest: tuple[int, int], rows: str, most: int) -> Paired:
    """Tokenise texts for target and source.

    words:   the tokenizers, longest: the most tokens of each.
    rows:    `tokens`, at the ends of stretches of text that are whole tokens of both; `prompts`, a row for each text.
    most:    rows, at most: spread evenly over all.

    Raises CheckpointError where a tokenizer does not say where its tokens end, TaskError where nothing is left.
    """
    if rows == "tokens":
        for each in words:
            if not getattr(each, "is_fast", False):
                why = "it does not say where in a text its tokens end"
                what = f"a {type(each).__name__} cannot be compared token by token"
                raise CheckpointError(what, why=why, hint="--rows prompts")
    found: list[tuple[Tokens, Tokens]] = []
    dropped = 0
    for text in texts:
        both = _both(text, words, longest, rows)
        if both is None:
            dropped += 1
        else:
            found.append(both)
    total = sum(len(first.places) for first, _ in found) if rows == "tokens" else len(found)
    if total < 2:
        why = (
            f"of {len(texts)} texts {dropped} have no tokens of both models"
            if dropped
            else "correlations need two rows"
        )
        raise TaskError("these texts give nothing to compare models on", why=why, hint="give more, or longer, texts")
    content = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    kept = list(_thinned(found, total, most, rows))
    first, second = zip(*kept, strict=True)
    return Paired(first, second, min(total, most), dropped, content)


def _both(text: str, words: tuple[Any, Any], longest: tuple[int, int], rows: str) -> tuple[Tokens, Tokens] | None:
    while True:
        ids = [encode(each, text, special=True) for each in words]
        if not text.strip() or not all(ids):
            return None
        share = min(most / len(each) for each, most in zip(ids, longest, strict=True))
        if share >= 1:
            break
        text = text[: min(len(text) - 1, int(len(text) * share))]
    if rows != "tokens":
        first, second = (Tokens(tuple(each), ()) for each in ids)
        return first, second
    ends = [_ends(each, text, len(own)) for each, own in zip(words, ids, strict=True)]
    shared = sorted(ends[0].keys() & ends[1].keys())
    if not shared:
        return None
    first, second = (
        Tokens(tuple(own), tuple(each[end] for end in shared)) for own, each in zip(ids, ends, strict=True)
    )
    return first, second


def _ends(words: Any, text: str, count: int) -> dict[int, int]:
    """By where tokens end in a text: the last that ends there."""
    start = words.bos_token
    special = not (start and text.startswith(start))
    spans = words(text, add_special_tokens=special, return_offsets_mapping=True)["offset_mapping"]
    assert len(spans) == count
    return {int(end): place for place, (begin, end) in enumerate(spans) if end > begin}


def _thinned(found: list[tuple[Tokens, Tokens]], total: int, most: int, rows: str) -> Iterator[tuple[Tokens, Tokens]]:
    """The same with no more rows than wanted, spread evenly."""
    if rows != "tokens":
        step = max(1.0, total / most)
        yield from (found[int(number * step)] for number in range(min(total, most)))
        return
    at = 0
    for first, second in found:
        kept = [
            place
            for place in range(len(first.places))
            if (at + place + 1) * most // total > (at + place) * most // total or total <= most
        ]
        at += len(first.places)
        if kept:
            yield (
                Tokens(first.ids, tuple(first.places[place] for place in kept)),
                Tokens(second.ids, tuple(second.places[place] for place in kept)),
            )
