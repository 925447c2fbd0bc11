"""Levenshtein's distance of many pairs of short texts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

STEP = 8  # letters: texts whose lengths round to the same multiple are compared together


class Letters(NamedTuple):
    """Texts as code points (n, longest), filled with -1, and their lengths (n,)."""

    codes: np.ndarray
    lengths: np.ndarray


def letters_of(texts: Sequence[str]) -> Letters:
    """Texts as rows of code points."""
    lengths = np.array([len(text) for text in texts], np.int64)
    codes = np.full((len(texts), int(lengths.max(initial=0))), -1, np.int32)
    for row, text in zip(codes, texts, strict=True):
        row[: len(text)] = [ord(letter) for letter in text]
    return Letters(codes, lengths)


def edit_distances(one: Letters, other: Letters) -> np.ndarray:
    """The distance of each text from the one in the same place, int32 (n,). A single text stands for as many as there are.

    The table of an insertion, a deletion or another letter at cost 1, filled for all pairs side by side; each pair's answer is
    read off where both of its texts end.
    """
    count = max(len(one.lengths), len(other.lengths))
    ends = np.broadcast_to(one.lengths, count), np.broadcast_to(other.lengths, count)
    wide, high = int(one.lengths.max(initial=0)), int(other.lengths.max(initial=0))
    found = ends[1].astype(np.int32)
    before = [np.full(count, place, np.int32) for place in range(high + 1)]
    for row in range(1, wide + 1):
        line = [np.full(count, row, np.int32)]
        for column in range(1, high + 1):
            apart = one.codes[:, row - 1] != other.codes[:, column - 1]
            cost = np.minimum(before[column], line[-1])
            cost += 1
            line.append(np.minimum(cost, before[column - 1] + apart))
        ending = np.flatnonzero(ends[0] == row)
        if ending.size:
            found[ending] = np.stack([cells[ending] for cells in line])[ends[1][ending], np.arange(ending.size)]
        before = line
    return found


def pair_distances(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """The distances of pairs of texts, int32 (n,); pairs of about the same lengths are worked out together."""
    found = np.zeros(len(pairs), np.int32)
    for chosen in _alike(pairs):
        one, other = zip(*(pairs[place] for place in chosen), strict=True)
        found[chosen] = edit_distances(letters_of(one), letters_of(other))
    return found


def _alike(pairs: Sequence[tuple[str, str]]) -> Iterator[list[int]]:
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (one, other) in enumerate(pairs):
        groups.setdefault((-(-len(one) // STEP), -(-len(other) // STEP)), []).append(place)
    yield from groups.values()


class Nearest:
    """Finds the nearest of many texts to one."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.by_length: dict[int, tuple[np.ndarray, Letters]] = {}
        lengths = np.array([len(text) for text in texts], np.int64)
        for length in np.unique(lengths).tolist():
            places = np.flatnonzero(lengths == length)
            self.by_length[length] = places, letters_of([texts[place] for place in places.tolist()])

    def of(self, text: str) -> np.ndarray:
        """The places of all texts at the least distance from `text`, rising. No length is looked at that cannot be nearer."""
        own = letters_of([text])
        best, found = np.inf, []
        for length in sorted(self.by_length, key=lambda each: (abs(each - len(text)), each)):
            if abs(length - len(text)) > best:
                break
            places, others = self.by_length[length]
            apart = edit_distances(own, others)
            least = float(apart.min())
            if least < best:
                best, found = least, []
            if least == best:
                found.append(places[apart == least])
        return np.sort(np.concatenate(found)) if found else np.zeros(0, np.int64)
