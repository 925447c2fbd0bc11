"""Distributions over the target's tokens: what they teach, and which of several teachers is listened to.

A distribution is a row of k tokens and their shares, which sum to 1. Row i says what a model expects in the place of the
target's token i: of a row of n tokens, the target's logits before token i are compared with row i.

    L = text * -log q(label) + (1 - text) * -sum_v p(v) log q(v)            p: the fused distribution, q: the target's

Where no teacher can say anything, p is the label itself: there, both parts are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Rows = tuple[np.ndarray, np.ndarray]  # ids (n, k), shares (n, k)


def top_of(logits: Any, top: int, temperature: float = 1.0) -> tuple[Any, Any]:
    """The `top` most likely tokens of each row of logits [n, v], and the softmax over them alone, float32."""
    import torch

    values, ids = logits.float().topk(min(top, logits.shape[-1]), dim=-1)
    return ids, torch.softmax(values / temperature, dim=-1)


def aligned(match: np.ndarray, mapped: Rows, labels: np.ndarray) -> Rows:
    """The source's distributions in the places of the target's tokens; the label where there is none.

    match:  for each target token the source token in whose place it is foretold, or -1.
    mapped: distributions in the places of the source's tokens, over the target's vocabulary; shares of 0 say nothing.
    labels: the target's tokens.
    """
    ids, shares = mapped
    width = ids.shape[1] if ids.ndim == 2 and ids.shape[1] else 1
    found = np.zeros((len(labels), width), np.int64), np.zeros((len(labels), width))
    heard = match >= 0
    heard[heard] = shares[match[heard]].sum(1) > 0.0
    found[0][heard], found[1][heard] = ids[match[heard]], shares[match[heard]]
    found[0][~heard, 0], found[1][~heard, 0] = labels[~heard], 1.0
    return found


def fused(rule: str, losses: Sequence[float], rows: Sequence[Rows]) -> Rows:
    """The distributions of the teachers of one sequence as one.

    losses: nats that each teacher needs for the sequence, for each of the target's tokens, so that models of other
    tokenizers can be compared. MinCE takes the least; AvgCE the mean, each weighed by exp(-loss).
    """
    if rule == "mince":
        return rows[int(np.argmin(losses))]
    weights = np.exp(np.min(losses) - np.asarray(losses, np.float64))
    weights /= weights.sum()
    ids = np.concatenate([ids for ids, _ in rows], 1)
    return ids, np.concatenate([weight * shares for weight, (_, shares) in zip(weights, rows, strict=True)], 1)


def losses_of(logits: Any, labels: Any, ids: Any = None, shares: Any = None) -> tuple[Any, Any]:
    """The sums of -log q(label) and of -sum p log q over all labelled places, in float32.

    logits [b, n, v]; labels [b, n], -100 where nothing is learnt; ids, shares [b, n, k]. Place i is foretold by logits i - 1.
    Without distributions, the second sum is the first.
    """
    import torch

    labels, logits = labels[:, 1:], logits[:, :-1].float()
    learnt = labels != -100
    logits, labels = logits[learnt], labels[learnt]
    whole = torch.logsumexp(logits, -1)
    text = (whole - logits.gather(-1, labels[:, None])[:, 0]).sum()
    if ids is None:
        return text, text
    ids, shares = ids[:, 1:][learnt], shares[:, 1:][learnt]
    return text, (shares * (whole[:, None] - logits.gather(-1, ids))).sum()
