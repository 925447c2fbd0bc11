"""Tokens of one vocabulary as tokens of another, and distributions over one as distributions over the other.

exact    the token of the same bytes; bos, eos and the like by their role
first    else the first token that the target makes of it: where the text goes on so, that token comes next
edit     else the token at the least edit distance, spaces around it aside (FuseLLM's MinED)
counts   else the token that the data pair with it most often, then the nearest (FuseChat)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal

import numpy as np

from mergery.alignment.fusion.distances import Nearest
from mergery.checkpoints.tokenizer.reading import ROLES, tokenizer_in
from mergery.checkpoints.tokenizer.token_bytes import meaning
from mergery.errors import TaskError
from mergery.evaluation.likelihood import encode

By = Literal["exact", "first", "edit", "counts"]
WAYS: tuple[By, ...] = ("exact", "first", "edit", "counts")
NONE, UNKNOWN = -1, -2


class Vocabulary:
    """What the tokens of a tokenizer stand for."""

    def __init__(self, tokenizer: Any, label: str, rows: int = 1 << 31) -> None:
        """rows: of the model; tokens behind them cannot be foretold.

        Raises CheckpointError where the tokenizer is of a kind that is not read.
        """
        self.tokenizer = tokenizer
        read = tokenizer_in(tokenizer.backend_tokenizer.to_str().encode(), label)
        self.size = read.end
        words = {role: str(word) for role, word in tokenizer.special_tokens_map.items() if role in ROLES}
        self.roles = {role: read.tokens[word] for role, word in words.items() if read.tokens.get(word, rows) < rows}
        special = set(self.roles.values())
        self.texts: dict[int, bytes] = {}  # of plain tokens, by id
        self.added: dict[bytes, int] = {}
        for token, number in read.tokens.items():
            if number >= rows:
                continue
            added, content = meaning(token, read)
            if added:
                self.added[content] = number
            elif number not in special:
                self.texts[number] = content

    @cached_property
    def ids(self) -> Mapping[bytes, int]:
        """Plain tokens by their bytes; of equal ones the first."""
        found: dict[bytes, int] = {}
        for number, text in sorted(self.texts.items()):
            found.setdefault(text, number)
        return found

    def first(self, text: bytes) -> int:
        """The first token of a text that is none itself; -1 where there is none.

        Tokenizers that put a space before every text are asked without the text's own. Where that tells nothing, as for half a
        letter, it is the longest token with which the text begins.
        """
        with suppress(UnicodeDecodeError, TaskError):
            for words in (text.decode(), text.decode().removeprefix(" ")):
                found = encode(self.tokenizer, words, special=False)[:1]
                begun = self.texts.get(found[0]) if found else None
                if begun and text.startswith(begun):
                    return found[0]
        return next((self.ids[text[:n]] for n in range(len(text) - 1, 0, -1) if text[:n] in self.ids), NONE)

    @cached_property
    def nearest(self) -> tuple[Nearest, Sequence[int]]:
        """Finds the nearest token to a text without spaces around it."""
        numbers = sorted(self.texts)
        return Nearest([bare(self.texts[number]) for number in numbers]), numbers


class VocabularyMap:
    """The token of a target's vocabulary for each token of a source's, found when it is first asked for."""

    def __init__(
        self, source: Vocabulary, target: Vocabulary, by: By = "first", counts: Mapping[int, int] | None = None
    ) -> None:
        """counts: for `counts`, the target token with which the data pair each source token most often.

        The map of a vocabulary onto itself, the same object, leaves all as it is.
        """
        self.source, self.target, self.by, self.counts = source, target, by, counts or {}
        self.table = np.arange(source.size) if source is target else np.full(source.size, UNKNOWN, np.int64)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """The target's ids in the same places, int64; -1 where there is none."""
        flat = np.asarray(ids, np.int64)
        known = flat < len(self.table)  # logits may have more rows than the tokenizer has tokens
        found = np.full(flat.shape, NONE, np.int64)
        inside = flat[known]
        for number in np.unique(inside[self.table[inside] == UNKNOWN]).tolist():
            self.table[number] = self._one(number)
        found[known] = self.table[inside]
        return found

    def _one(self, number: int) -> int:
        for role, own in self.source.roles.items():
            if own == number:
                return self.target.roles.get(role, NONE)
        text = self.source.texts.get(number)
        if text is None:
            word = next((word for word, own in self.source.added.items() if own == number), None)
            return self.target.added.get(word, NONE) if word is not None else NONE
        exact = self.target.ids.get(text)
        if exact is not None or self.by == "exact":
            return NONE if exact is None else exact
        if self.by == "first":
            return self.target.first(text)
        if number in self.counts:
            return self.counts[number]
        nearest, numbers = self.target.nearest
        places = nearest.of(bare(text)).tolist()
        spaced = text.startswith(b" ")
        return min((numbers[place] for place in places), default=NONE, key=lambda each: (
            self.target.texts[each].startswith(b" ") != spaced, each
        ))  # fmt: skip


def bare(text: bytes) -> str:
    """A token's text as letters, without spaces around it; bytes that are none stand for themselves."""
    return text.decode("utf-8", "surrogateescape").strip()


def carry_over(ids: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distributions (n, k) over mapped ids: equal ones added up, what has no token left out, the rest summing to 1.

    Shares of a row in which nothing is left are all 0. Rows come back sorted by id; places that are empty hold id 0.
    """
    order = np.argsort(ids, axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, 1)
    shares = np.where(ids >= 0, np.take_along_axis(shares.astype(np.float64), order, 1), 0.0)
    for column in range(1, ids.shape[1]):
        same = ids[:, column] == ids[:, column - 1]
        shares[:, column] += np.where(same, shares[:, column - 1], 0.0)
        shares[:, column - 1] = np.where(same, 0.0, shares[:, column - 1])
    whole = shares.sum(1, keepdims=True)
    shares = np.divide(shares, whole, out=np.zeros_like(shares), where=whole > 0.0)
    return np.where(shares > 0.0, ids, 0), shares


def most_paired(pairs: Mapping[tuple[int, int], int]) -> dict[int, int]:
    """For each source token the target token with which it was paired most often; of equal ones the lowest."""
    best: dict[int, tuple[int, int]] = {}
    for (source, target), count in pairs.items():
        rank = (-count, target)
        if source not in best or rank < best[source]:
            best[source] = rank
    return {source: target for source, (_, target) in best.items()}
