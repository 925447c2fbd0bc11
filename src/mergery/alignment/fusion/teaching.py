"""What a teacher expects, place by place of the target's tokens, worked out once and kept in files.

A folder holds three arrays for each shard of the texts: `ids` int32 (tokens, k) and `shares` float16 (tokens, k), over the
target's vocabulary, and `losses` float32 (pieces,), in nats for each of the target's tokens. A shard whose losses are there is
done. Six bytes for each probability kept, sixty for ten of them, for each token of the data and each teacher.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergery.alignment.fusion.distributions import Rows, aligned, top_of
from mergery.alignment.fusion.mapping import VocabularyMap, carry_over, most_paired
from mergery.alignment.fusion.options import FuseOptions
from mergery.alignment.fusion.passages import Passage, Passages
from mergery.alignment.fusion.pieces import Cutter, Piece, Tokens, pieces_of
from mergery.alignment.fusion.warping import NONE, match_spans, match_warped
from mergery.errors import DataError, PlanError
from mergery.run.output import write_at_once

TOLD = "told.json"
AT_ONCE = 4096  # tokens of a batch
LOGITS = 1 << 28  # of a batch, at most: a gigabyte
ROWS = 512  # of logits that are taken to float32 at once
UNHEARD = 1e4  # nats: the loss of a teacher that does not reach what is to be learnt


@dataclass(frozen=True, eq=False)
class Teacher:
    """A model that is asked: how it reads texts, what its tokens become, and the module itself when it is wanted."""

    name: str
    cutter: Cutter
    vocabulary: VocabularyMap
    longest: int  # tokens that it takes at once
    same: bool  # whether its tokenizer is the target's
    load: Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Question:
    """A piece in a teacher's tokens, and which of them stand in the places of the target's."""

    piece: Piece
    tokens: Tokens
    match: np.ndarray
    alike: bool = False  # whether matched tokens begin at the same letter of the text

    def read_alike(self, mapped: np.ndarray, own: np.ndarray, shares: np.ndarray, nats: np.ndarray) -> Rows:
        """What the teacher's tokens are in the target's, where both read on from the same letter.

        mapped, own, shares: (n, k) of the teacher's places. nats: (n,) of its tokens. The token that the teacher read there
        stands for the one that the target reads. Where that is longer, its share is that of all of the teacher's tokens in it.
        """
        if not self.alike:
            return mapped, shares
        heard = self.match >= 0
        places, labels = self.match[heard], self.labels[heard]
        last = np.searchsorted(self.tokens.ends, self.piece.tokens.ends[heard], "right")
        sums = np.concatenate([np.zeros(1), np.cumsum(nats)])
        rest = np.exp(sums[places + 1] - sums[np.maximum(last, places + 1)])
        read = own[places] == self.tokens.ids[places, None]
        mapped, shares = mapped.copy(), shares.astype(np.float64)
        mapped[places] = np.where(read, labels[:, None], mapped[places])
        shares[places] *= np.where(read, rest[:, None], 1.0)
        return mapped, shares

    @property
    def labels(self) -> np.ndarray:
        return self.piece.tokens.ids

    def loss(self, nats: np.ndarray) -> float:
        """What the teacher needs for what is to be learnt, in nats for each of the target's tokens that it covers."""
        tokens, first = self.piece.tokens, self.piece.learnt
        begin = int(tokens.starts[first])
        end = int(self.tokens.ends[-1]) if len(self.tokens) else begin
        count = int(np.searchsorted(tokens.ends, end, "right")) - first
        return float(nats[self.tokens.starts >= begin].sum()) / count if count > 0 else UNHEARD


def shard_pieces(shard: Sequence[Passage], cutter: Cutter, longest: int) -> list[Piece]:
    """The pieces of a shard's texts, in order."""
    return [piece for each in shard for piece in pieces_of(each.text, each.answer, cutter, longest)]


def ask_all(
    teacher: Teacher,
    target: Cutter,
    passages: Passages,
    folder: Path,
    told: Mapping[str, Any],
    options: FuseOptions,
    longest: int,
    tell: Callable[[int], None],
) -> None:
    """Write a teacher's distributions on all texts into a folder; shards that are there are not made again.

    told: plain data that determines them. What was left of others is removed. tell: is called with the letters that are done.
    Raises PlanError where the folder holds something else.
    """
    begin(folder, told)
    module = None
    done = 0
    for number, shard in enumerate(passages.shards(options.shard)):
        done += sum(len(each.text) for each in shard)
        if not path_of(folder, number, "losses").exists():
            module = teacher.load() if module is None else module
            pieces = shard_pieces(shard, target, longest)
            ids, shares, losses = ask(teacher, module, pieces, options)
            write_arrays(folder, number, {"ids": ids, "shares": shares, "losses": losses})
        tell(done)


def begin(folder: Path, told: Mapping[str, Any]) -> None:
    """Make the folder, or take up what an interrupted run has left of the same. Raises PlanError."""
    text = json.dumps(told, sort_keys=True) + "\n"
    mark = folder / TOLD
    if folder.exists() and not mark.exists() and any(folder.iterdir()):
        raise PlanError(
            f"{str(folder)!r} stands in the way", why="it holds no distributions", hint="choose another folder"
        )
    if mark.exists() and mark.read_text() != text:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_at_once(mark, text)


def path_of(folder: Path, number: int, what: str) -> Path:
    return folder / f"{what}-{number:05d}.npy"


def write_arrays(folder: Path, number: int, arrays: Mapping[str, np.ndarray]) -> None:
    """Write the arrays of a shard; the last of them says that all are there."""
    for what, values in arrays.items():
        path = path_of(folder, number, what)
        unfinished = path.with_suffix(".part")
        with open(unfinished, "wb") as file:
            np.save(file, values)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)


def ask(
    teacher: Teacher, module: Any, pieces: Sequence[Piece], options: FuseOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A teacher's distributions in the places of the target's tokens: ids, shares (tokens, top), and losses (pieces,)."""
    questions = [question(teacher, piece, options.match) for piece in pieces]
    sizes = np.array([len(each.labels) for each in questions], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    ids = np.zeros((int(starts[-1]), options.top), np.int32)
    shares = np.zeros((int(starts[-1]), options.top), np.float16)
    losses = np.zeros(len(questions), np.float32)
    for some in _batches(questions, min(AT_ONCE, LOGITS // _rows_of(module))):
        answers = _answers(teacher, module, [questions[place].tokens for place in some], options)
        for place, (own, parts, nats) in zip(some, answers, strict=True):
            asked, first = questions[place], int(starts[place])
            mapped = carry_over(*asked.read_alike(teacher.vocabulary.of(own), own, parts, nats))
            found = aligned(asked.match, mapped, asked.labels)
            width = found[0].shape[1]
            ids[first : first + len(asked.labels), :width] = found[0]
            shares[first : first + len(asked.labels), :width] = found[1]
            losses[place] = asked.loss(nats)
    if not np.isfinite(losses).all():
        raise DataError(f"{teacher.name} does not give finite logits", hint="check it with `mergery evaluate`")
    return ids, shares, losses


def question(teacher: Teacher, piece: Piece, match: str) -> Question:
    """A piece in a teacher's tokens: as many as it takes. The first is foretold only where the teacher puts one before it."""
    room = teacher.longest - len(teacher.cutter.before)
    if teacher.same:
        tokens = piece.tokens[:room]
        found = np.arange(len(piece.tokens))
        found[room:] = NONE
    else:
        tokens = teacher.cutter.cut(piece.text).within(piece.start, piece.end)[:room]
        if match == "spans":
            found = match_spans(piece.tokens, tokens)
        else:
            found = match_warped(piece.tokens.words(piece.text), tokens.words(piece.text))
        found[piece.tokens.starts == 0] = NONE  # tokenizers differ in whether a text's first word has a space before it
    if not teacher.cutter.before:
        found[found == 0] = NONE
    return Question(piece, tokens, found, match == "spans" and not teacher.same)


def _rows_of(module: Any) -> int:
    return int(module.get_output_embeddings().weight.shape[0])


def _batches(questions: Sequence[Question], most: int) -> Iterator[list[int]]:
    """Places of questions, those of about the same length together; those without tokens among them."""
    order = sorted(range(len(questions)), key=lambda place: (len(questions[place].tokens), place))
    some: list[int] = []
    for place in order:
        if some and (len(some) + 1) * len(questions[place].tokens) > most:
            yield some
            some = []
        some.append(place)
    if some:
        yield some


def _answers(
    teacher: Teacher, module: Any, rows: Sequence[Tokens], options: FuseOptions
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each row the most likely tokens in the place of each of its tokens, their shares, and the nats of each token.

    Where nothing stands before a row, nothing foretells its first token: there are no shares, and 0 nats.
    """
    import torch

    before = list(teacher.cutter.before)
    first = 0 if before else 1
    width = len(before) + max(1, max(len(row) for row in rows))
    device = next(module.parameters()).device
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        joined = [*before, *row.ids.tolist()]
        ids[place, : len(joined)] = torch.tensor(joined, dtype=torch.long)
        mask[place, : max(1, len(joined))] = 1
    with torch.inference_mode():
        logits = module(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        for row, own in zip(rows, logits, strict=True):
            labels = torch.tensor(row.ids, dtype=torch.long, device=device)
            top = min(options.top, own.shape[-1])
            tokens, shares = np.zeros((len(row), top), np.int64), np.zeros((len(row), top), np.float32)
            nats = np.zeros(len(row))
            for start in range(first, len(row), ROWS):
                place = slice(start, min(start + ROWS, len(row)))
                part = own[len(before) + place.start - 1 : len(before) + place.stop - 1].float()
                found = top_of(part, top, options.temperature)
                tokens[place], shares[place] = (each.cpu().numpy() for each in found)
                logs = torch.log_softmax(part, -1).gather(-1, labels[place, None])[:, 0]
                nats[place] = -logs.double().cpu().numpy()
            yield tokens, shares, nats


def count_pairs(
    source: Cutter, target: Cutter, passages: Passages, options: FuseOptions, longest: int
) -> dict[int, int]:
    """For each of a source's tokens the target's with which the data pair it most often."""
    counts: dict[tuple[int, int], int] = {}
    for shard in passages.shards(options.shard):
        for piece in shard_pieces(shard, target, longest):
            tokens = source.cut(piece.text).within(piece.start, piece.end)
            match = match_warped(piece.tokens.words(piece.text), tokens.words(piece.text))
            for ours, theirs in zip(
                piece.tokens.ids[match >= 0].tolist(), tokens.ids[match[match >= 0]].tolist(), strict=True
            ):
                counts[theirs, ours] = counts.get((theirs, ours), 0) + 1
    return most_paired(counts)
