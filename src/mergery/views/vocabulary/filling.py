"""Rows for tokens that no merged model has: drawn at random, averaged over pieces, or by matching pursuit.

Matching pursuit (Goddard and Neto 2025, arXiv 2506.06607) writes the token's row in the donor of the vocabulary as a sum
of a few of the rows of tokens that both have, and takes the same sum of the model's own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.checkpoints.tokenizer.reading import Tokenizer
from mergery.checkpoints.tokenizer.token_bytes import meaning
from mergery.errors import PlanError
from mergery.graph.nodes import Node, Read, made_whole
from mergery.kernels import random as keyed
from mergery.recipe import Vocabulary
from mergery.views.vocabulary.choosing import Chosen, Rows
from mergery.views.vocabulary.rows import WINDOW, Fill, TokenTensors

if TYPE_CHECKING:
    from torch import Tensor


def make_fill(
    wanted: Vocabulary,
    chosen: Chosen,
    rows: Rows,
    tokenizers: Mapping[str, tuple[Tokenizer, bytes | None]],
    seed: int,
    donor: str | None,
) -> Fill | None:
    """What makes the rows of unknown tokens, as the recipe says. `donor` is the model whose tokenizer the output takes;
    `tokenizers` are those of the models, with the content of tokenizer.json. Raises PlanError."""
    if not len(rows.unknown) or wanted.unknown in ("mean", "zero"):
        return None
    by_id = {index: token for token, index in chosen.tokens.items()}
    tokens = [by_id[int(index)] for index in rows.unknown]
    where = wanted.places.get("unknown", wanted.place)
    if wanted.unknown == "random":
        return _Random(tokens, rows, seed)
    if wanted.unknown == "subword":
        pieces = {name: cut(tokens, chosen.lead, *tokenizers[name]) for name in rows.names if name != donor}
        return _Subword(pieces, rows)
    lost = [
        token for token, index in zip(tokens, rows.unknown, strict=True) if donor is None or rows.own[donor][index] < 0
    ]
    if lost:
        raise PlanError(
            f"matching pursuit cannot make a row for {lost[0]!r}",
            where=where,
            why="no model has one to learn from"
            if len(lost) == 1
            else f"no model has one to learn from, nor for {len(lost) - 1} others",
            hint="say under 'tokens' whose row it gets",
        )
    assert donor is not None
    return _Pursuit(rows, donor, wanted.neighbours)


class _Random:
    """Normal numbers with the mean and the spread of the model's rows, column by column; keyed by seed, tensor and token."""

    def __init__(self, tokens: Sequence[str], rows: Rows, seed: int) -> None:
        self.tokens, self.rows, self.seed = tokens, rows, seed

    def __call__(self, tensors: TokenTensors, name: str, tensor: str, width: int) -> Node:
        known = self.rows.own[name][self.rows.own[name] >= 0]

        def draw(reads: Sequence[Read]) -> np.ndarray:
            mean, spread = moments(reads[0], known, width)
            out = np.empty((len(self.tokens), width), dtype=np.float32)
            for place, token in enumerate(self.tokens):
                out[place] = mean + spread * normal(keyed.key(self.seed, tensor, token), width)
            return out

        source = tensors.views[name].nodes[tensor]
        shape = (len(self.tokens), width)
        return made_whole(tensor, shape, (source,), draw, "random rows", WINDOW * width * 8, torch=True)


class _Subword:
    """The mean of the rows of the pieces into which a model's own tokenizer cuts a token's text."""

    def __init__(self, pieces: Mapping[str, list[list[int]]], rows: Rows) -> None:
        self.pieces, self.rows = pieces, rows

    def __call__(self, tensors: TokenTensors, name: str, tensor: str, width: int) -> Node:
        pieces = self.pieces[name]
        known = self.rows.own[name][self.rows.own[name] >= 0]
        count = tensors.heights[name][tensor]

        def average(reads: Sequence[Read]) -> np.ndarray:
            mean = None
            out = np.empty((len(pieces), width), dtype=np.float32)
            for place, ids in enumerate(pieces):
                found = [index for index in ids if index < count]
                if found:
                    out[place] = np.mean(
                        [reads[0](i * width, (i + 1) * width) for i in found], axis=0, dtype=np.float64
                    )
                else:
                    mean = moments(reads[0], known, width)[0] if mean is None else mean
                    out[place] = mean
            return out

        source = tensors.views[name].nodes[tensor]
        return made_whole(
            tensor, (len(pieces), width), (source,), average, "means of the rows of pieces", WINDOW * width * 8
        )


class _Pursuit:
    """Sums of few rows of shared tokens, fitted in the donor and carried over."""

    def __init__(self, rows: Rows, donor: str, k: int) -> None:
        self.rows, self.donor, self.k = rows, donor, k

    def __call__(self, tensors: TokenTensors, name: str, tensor: str, width: int) -> Node:
        theirs, mine = self.rows.own[self.donor], self.rows.own[name]
        shared = np.flatnonzero((theirs >= 0) & (mine >= 0) & self.rows.tokens)
        wanted = self.rows.unknown
        if not len(shared):
            raise PlanError(
                f"{name!r} and {self.donor!r} share no token", hint="use another way to make rows: unknown: mean"
            )
        node = tensors.views[name].nodes[tensor]
        other, others_width = tensors.loose_counterpart(self.donor, name, tensor)

        def make(reads: Sequence[Read]) -> np.ndarray:
            import torch

            from mergery.views.vocabulary.pursuit import pursue

            atoms = torch.from_numpy(take(reads[1], theirs[shared], others_width))
            targets = torch.from_numpy(take(reads[1], theirs[wanted], others_width))
            indices, coefficients = pursue(targets, atoms, self.k)
            own = torch.from_numpy(take(reads[0], mine[shared], width))
            return combine(indices, coefficients, own).numpy()

        memory = 4 * (len(shared) + len(wanted)) * (width + 2 * others_width) + (1 << 28)
        what = f"rows by matching pursuit in {self.donor}"
        return made_whole(tensor, (len(wanted), width), (node, other), make, what, memory, torch=True)


def combine(indices: Tensor, coefficients: Tensor, rows: Tensor) -> Tensor:
    """Sums of rows with coefficients: float32 (n, d) from (n, k) indices into (s, d) rows."""
    import torch

    out = torch.empty(len(indices), rows.shape[1], dtype=torch.float32)
    for start in range(0, len(indices), 256):
        part = slice(start, start + 256)
        out[part] = torch.einsum("nk,nkd->nd", coefficients[part], rows[indices[part]].double()).float()
    return out


def take(read: Read, rows: np.ndarray, width: int) -> np.ndarray:
    """Rows of a tensor, float32 (len(rows), width); rows that follow one another are read together."""
    out = np.empty((len(rows), width), dtype=np.float32)
    breaks: list[int] = (np.flatnonzero(np.diff(rows) != 1) + 1).tolist()
    for low, high in zip([0, *breaks], [*breaks, len(rows)], strict=True):
        for start in range(low, high, WINDOW):
            stop = min(high, start + WINDOW)
            first = int(rows[start])
            out[start:stop] = read(first * width, (first + stop - start) * width).reshape(-1, width)
    return out


def moments(read: Read, rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of some rows, column by column, in float64."""
    total, square = np.zeros(width), np.zeros(width)
    for start in range(0, len(rows), WINDOW):
        total += take(read, rows[start : start + WINDOW], width).sum(axis=0, dtype=np.float64)
    mean = total / max(1, len(rows))
    for start in range(0, len(rows), WINDOW):
        square += ((take(read, rows[start : start + WINDOW], width) - mean) ** 2).sum(axis=0)
    return mean, np.sqrt(square / max(1, len(rows)))


def normal(stream: int, count: int) -> np.ndarray:
    """Standard normal numbers of a stream (Box and Muller 1958): float64 (count,)."""
    pairs = -(-count // 2)
    draws = keyed.uniform(stream, 0, 2 * pairs).numpy().astype(np.float64)
    radius = np.sqrt(-2 * np.log1p(-draws[:pairs]))
    angle = 2 * np.pi * draws[pairs:]
    return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]


def cut(tokens: Sequence[str], lead: Tokenizer, own: Tokenizer, file: bytes | None) -> list[list[int]]:
    """The ids into which a model's tokenizer cuts each token's text; those of its bytes where it is no whole text."""
    whole = _encoder(own, file)
    letters = {
        bytes(text): own.tokens[token] for token in own.tokens for plain, text in [meaning(token, own)] if not plain
    }
    result: list[list[int]] = []
    for token in tokens:
        _, content = meaning(token, lead)
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        ids = list(whole.encode(text, add_special_tokens=False).ids) if text else []
        result.append(ids or [letters[bytes([byte])] for byte in content if bytes([byte]) in letters])
    return result


def _encoder(tokenizer: Tokenizer, file: bytes | None) -> Any:
    if file is None:
        raise PlanError(
            f"{tokenizer.label!r} has no tokenizer.json, by which the text of tokens is cut",
            hint="use unknown: mean, or save its tokenizer with transformers first",
        )
    try:
        from tokenizers import Tokenizer as Encoder
    except ImportError:
        raise PlanError(
            "cutting tokens into pieces needs the tokenizers library", hint="pip install 'mergery[models]'"
        ) from None
    try:
        return Encoder.from_str(file.decode("utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise PlanError(
            f"the tokenizer of {tokenizer.label!r} cannot be loaded", why=str(error)[:300], hint="unknown: mean"
        ) from None
