"""Tokens of two models matched on one text: which of the source's predictions stands for each of the target's.

A match is an array (n,) over the target's tokens: the source token in whose place that token is foretold, or -1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mergery.alignment.fusion.distances import pair_distances
from mergery.alignment.fusion.pieces import Tokens

BAND = 64  # source tokens to each side of the diagonal that are looked at
NONE = -1


def match_spans(target: Tokens, source: Tokens) -> np.ndarray:
    """For each target token the source token that begins at the same letter of the text.

    What stands before both is the same text, so that both models are asked the same: what comes next. Of several tokens
    that begin there, such as the bytes of one letter, only the first is.
    """
    first: dict[int, int] = {}
    for place, start in enumerate(source.starts.tolist()):
        first.setdefault(start, place)
    found = np.full(len(target), NONE, np.int64)
    seen: set[int] = set()
    for place, start in enumerate(target.starts.tolist()):
        if start not in seen:
            seen.add(start)
            found[place] = first.get(start, NONE)
    return found


def match_warped(target: Sequence[str], source: Sequence[str], band: int | None = BAND) -> np.ndarray:
    """For each target token the source token that the cheapest path pairs with it and with no other (FuseLLM)."""
    found = np.full(len(target), NONE, np.int64)
    pairs = warp(target, source, band)
    ours = np.bincount([i for i, _ in pairs], minlength=len(target))
    theirs = np.bincount([j for _, j in pairs], minlength=len(source))
    for i, j in pairs:
        if ours[i] == 1 and theirs[j] == 1:
            found[i] = j
    return found


def warp(target: Sequence[str], source: Sequence[str], band: int | None = BAND) -> list[tuple[int, int]]:
    """The cheapest path of pairs (i, j) from the first tokens to the last, in order.

        D[i, j] = ed(t_i, s_j) + min(D[i-1, j-1], D[i-1, j], D[i, j-1])

    ed is Levenshtein's distance of the tokens' texts, without spaces around them. Of equal ways the diagonal is gone. Cells
    further than `band` (or the difference of lengths) from the diagonal are left out; None leaves out none.
    """
    n, m = len(target), len(source)
    if not n or not m:
        return []
    reach = max(n, m) if band is None else max(band, abs(n - m) + 1)
    rows = np.arange(n)
    middle = rows * m // n
    low, high = np.maximum(0, middle - reach), np.minimum(m, middle + reach + 1)
    cost = _costs([text.strip() for text in target], [text.strip() for text in source], low, high)
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0.0
    flat, step = total.reshape(-1), m  # along an anti-diagonal, i + 1 and j - 1 are m places further
    costs = cost.reshape(-1)
    for diagonal in range(2, n + m + 1):
        first, last = max(1, diagonal - m), min(n, diagonal - 1)
        here = slice(first * (m + 1) + diagonal - first, last * (m + 1) + diagonal - last + 1, step)
        left, above = slice(here.start - 1, here.stop - 1, step), slice(here.start - m - 1, here.stop - m - 1, step)
        corner = slice(here.start - m - 2, here.stop - m - 2, step)
        begin, end = (first - 1) * m + diagonal - first - 1, (last - 1) * m + diagonal - last - 1
        own = costs[begin : end + 1 : max(1, m - 1)] if last > first else costs[begin : begin + 1]
        flat[here] = own + np.minimum(np.minimum(flat[left], flat[above]), flat[corner])
    return _way_back(total)


def _costs(target: Sequence[str], source: Sequence[str], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The distance of each pair within the band, float64 (n, m); infinite elsewhere. Each pair of texts is compared once."""
    words = {text: place for place, text in enumerate(dict.fromkeys([*target, *source]))}
    ours = np.array([words[text] for text in target])
    theirs = np.array([words[text] for text in source])
    i = np.repeat(np.arange(len(target)), high - low)
    j = np.concatenate([np.arange(first, last) for first, last in zip(low, high, strict=True)])
    keys, back = np.unique(ours[i] * len(words) + theirs[j], return_inverse=True)
    known = list(words)
    apart = pair_distances([(known[key // len(words)], known[key % len(words)]) for key in keys.tolist()])
    cost = np.full((len(target), len(source)), np.inf)
    cost[i, j] = apart[back]
    return cost


def _way_back(total: np.ndarray) -> list[tuple[int, int]]:
    i, j = total.shape[0] - 1, total.shape[1] - 1
    path = [(i - 1, j - 1)]
    while (i, j) != (1, 1):
        ways = ((i - 1, j - 1), (i - 1, j), (i, j - 1))
        i, j = min(ways, key=lambda way: total[way] if min(way) > 0 else np.inf)
        path.append((i - 1, j - 1))
    return path[::-1]
