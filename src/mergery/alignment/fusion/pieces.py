"""A text in the tokens of a model: their ids, and the letters from which to which each reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergery.errors import CheckpointError, Where
from mergery.evaluation.likelihood import encode, told_of


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of a text, side by side: a token begins where the one before it ends, spaces between them included.

    ids: int32 (n,). starts, ends: letters of the text, int64 (n,).
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def within(self, start: int, end: int) -> Tokens:
        """The tokens that lie whole between two letters."""
        first = int(np.searchsorted(self.starts, start, "left"))
        last = max(first, int(np.searchsorted(self.ends, end, "right")))
        return self[first:last]

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(self.ids[part], self.starts[part], self.ends[part])

    def words(self, text: str) -> list[str]:
        """The part of the text that each token stands for."""
        return [text[start:end] for start, end in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]


@dataclass(frozen=True)
class Cutter:
    """How a model reads a text: its tokenizer, the tokens that it puts before every text, and how many tokens have a row."""

    tokenizer: Any
    before: tuple[int, ...]
    rows: int

    def cut(self, text: str) -> Tokens:
        """The tokens of a text, without those before it.

        What a tokenizer trims or drops belongs to the token behind it; the bytes of one letter all begin where it does. A first
        token that stands in the text already, as chat templates write it, is left out. Raises CheckpointError for a token that
        the model has no row for.
        """
        with told_of(text):
            found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = np.array(found["offset_mapping"], np.int64).reshape(-1, 2)
        ends = np.maximum.accumulate(places[:, 1])
        before = np.concatenate([np.zeros(1, np.int64), ends])[: len(ends)]
        starts = np.maximum.accumulate(np.minimum(places[:, 0], before))
        ids = np.array(found["input_ids"], np.int32)
        if (ids >= self.rows).any():
            token = self.tokenizer.convert_ids_to_tokens(int(ids.max()))
            what, why = (
                f"the model has no row for the token {token!r}",
                f"it has {self.rows} rows, and a text has this token",
            )
            raise CheckpointError(what, why=why, hint="give the model the rows, or leave the text out")
        whole = Tokens(ids, starts, ends)
        return whole[1:] if self.before and len(ids) and ids[0] == self.before[-1] else whole


def cutter_of(tokenizer: Any, where: str, rows: int = 1 << 31) -> Cutter:
    """How a tokenizer cuts texts, for a model with so many rows.

    Raises CheckpointError where it does not tell which letters its tokens stand for.
    """
    if not getattr(tokenizer, "is_fast", False):
        what, why = "this tokenizer does not tell where its tokens begin", "it is none of the tokenizers library"
        hint = "save it once as tokenizer.json, with transformers' AutoTokenizer and save_pretrained"
        raise CheckpointError(what, where=Where(where), why=why, hint=hint)
    bare, around = (encode(tokenizer, "a", special=special) for special in (False, True))
    at = next((at for at in range(len(around)) if around[at : at + len(bare)] == bare), 0)
    return Cutter(tokenizer, tuple(around[:at]), rows)


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a text that the target takes at once.

    text:  the whole text. tokens: the target's, of this part. learnt: its first token that is an answer.
    """

    text: str
    tokens: Tokens
    learnt: int

    @property
    def start(self) -> int:
        return int(self.tokens.starts[0])

    @property
    def end(self) -> int:
        return int(self.tokens.ends[-1])


def pieces_of(text: str, answer: int, cutter: Cutter, longest: int) -> Iterator[Piece]:
    """The parts of a text of at most `longest` tokens each, those before it counted; those without an answer are left out.

    answer: the letter at which what is to be learnt begins. What no token foretells, the very first of a text where nothing
    stands before it, cannot be learnt.
    """
    tokens = cutter.cut(text)
    room = longest - len(cutter.before)
    blind = 0 if cutter.before else 1
    for start in range(0, len(tokens), room):
        part = tokens[start : start + room]
        learnt = max(blind, int(np.searchsorted(part.starts, answer, "left")))
        if learnt < len(part):
            yield Piece(text, part, learnt)
