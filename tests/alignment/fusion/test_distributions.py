"""What distributions teach, who is listened to, and what is stored of a teacher."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mergery.alignment.fusion.distributions import aligned, fused, losses_of, top_of
from mergery.alignment.fusion.mapping import VocabularyMap
from mergery.alignment.fusion.members import Member, open_members
from mergery.alignment.fusion.options import FuseOptions
from mergery.alignment.fusion.pieces import Piece, pieces_of
from mergery.alignment.fusion.teaching import Teacher, ask, question
from tests.alignment.fusion.conftest import words


def naive(logits: Any, labels: Any, ids: Any, shares: Any) -> tuple[float, float]:
    """Both sums in float64, place by place: logits before a token foretell it."""
    text = taught = 0.0
    for row, own in enumerate(labels.tolist()):
        for place in range(1, len(own)):
            if own[place] == -100:
                continue
            logs = torch.log_softmax(logits[row, place - 1].double(), -1)
            text -= float(logs[own[place]])
            for number, share in zip(ids[row, place].tolist(), shares[row, place].tolist(), strict=True):
                taught -= share * float(logs[number])
    return text, taught


@given(st.integers(0, 1000))
def test_losses_agree_with_sums_in_float64(seed: int) -> None:
    torch.manual_seed(seed)
    logits, labels = torch.randn(2, 5, 11) * 3, torch.randint(0, 11, (2, 5))
    labels[0, 3:] = -100
    ids, shares = torch.randint(0, 11, (2, 5, 4)), torch.rand(2, 5, 4)
    text, taught = losses_of(logits, labels, ids, shares)
    assert (float(text), float(taught)) == pytest.approx(naive(logits, labels, ids, shares), rel=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    """With all probabilities, the loss is the teacher's entropy and its gradient is nothing."""
    torch.manual_seed(0)
    logits = (torch.randn(1, 4, 7) * 2).requires_grad_()
    ids, shares = top_of(logits.detach(), 7)
    rows = torch.zeros(1, 1, 7)
    taught = losses_of(
        logits,
        torch.tensor([[1, 2, 3, 4]]),
        torch.cat([rows.long(), ids[:, :-1]], 1),
        torch.cat([rows, shares[:, :-1]], 1),
    )[1]
    taught.backward()
    entropy = -(shares * shares.log())[:, :3].sum()
    assert float(taught.detach()) == pytest.approx(float(entropy), rel=1e-5)
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-6


def test_where_no_teacher_is_heard_the_loss_is_that_of_the_text() -> None:
    labels = np.array([3, 1, 4])
    nothing = np.zeros((2, 4), np.int64), np.zeros((2, 4))
    for match in (np.array([-1, -1, -1]), np.array([0, 1, -1])):  # nobody there, or nothing left of what it says
        ids, shares = aligned(match, nothing, labels)
        assert ids[:, 0].tolist() == [3, 1, 4] and shares.tolist() == [[1, 0, 0, 0]] * 3
        logits = torch.randn(1, 3, 6)
        given = torch.from_numpy(ids)[None], torch.from_numpy(shares).float()[None]
        text, taught = losses_of(logits, torch.from_numpy(labels)[None], *given)
        assert float(text) == pytest.approx(float(taught))


def test_distributions_come_to_the_places_of_the_target_worked_by_hand() -> None:
    """Target tokens 7 8 9; the source foretells the first in its place 0 and the last in its place 1."""
    mapped = np.array([[7, 5], [9, 2]]), np.array([[0.75, 0.25], [0.5, 0.5]])
    ids, shares = aligned(np.array([0, -1, 1]), mapped, np.array([7, 8, 9]))
    assert ids.tolist() == [[7, 5], [8, 0], [9, 2]]
    assert shares.tolist() == [[0.75, 0.25], [1.0, 0.0], [0.5, 0.5]]


def test_the_best_is_taken_or_all_are_weighed_worked_by_hand() -> None:
    """Losses 1 and 1 + ln 3: weights 3/4 and 1/4."""
    one = np.array([[1, 2]]), np.array([[0.5, 0.5]])
    other = np.array([[2, 3]]), np.array([[0.9, 0.1]])
    assert fused("mince", [1.0, 2.0], [one, other]) is one
    assert fused("mince", [2.0, 1.0], [one, other]) is other
    ids, shares = fused("avgce", [1.0, 1.0 + math.log(3.0)], [one, other])
    assert ids.tolist() == [[1, 2, 2, 3]]
    assert shares[0].tolist() == pytest.approx([0.375, 0.375, 0.225, 0.025]) and shares.sum() == pytest.approx(1.0)


def test_a_temperature_divides_logits() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -9.0]])
    ids, shares = top_of(logits, 2, 0.5)
    assert ids.tolist() == [[0, 1]]
    assert shares[0].tolist() == pytest.approx([1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(2.0))])


# --- teachers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(family: Path) -> dict[str, Member]:
    target, others = open_members(family / "llama", [family / "gpt2", family / "qwen"])
    return {each.name: each for each in (target, *others)}


def teacher(members: dict[str, Member], name: str, target: str) -> Teacher:
    own, to = members[name], members[target]
    source = to.vocabulary if name == target else own.vocabulary
    mapped = VocabularyMap(source, to.vocabulary, "first")
    return Teacher(name, own.cutter, mapped, own.longest, name == target, lambda: own.load("float32", "cpu"))


def some(members: dict[str, Member], target: str) -> list[Piece]:
    rng = random.Random(1)
    texts = [words(rng, count) for count in (3, 12, 30, 1)]
    return [piece for text in texts for piece in pieces_of(text, 0, members[target].cutter, 24)]


def test_the_target_itself_is_heard_as_it_is(members: dict[str, Member]) -> None:
    """Ids, shares and losses are those of plain calls of the model, sequence by sequence."""
    asked = teacher(members, "qwen", "qwen")
    module, cutter = asked.load(), asked.cutter
    options = FuseOptions(top=6)
    pieces = some(members, "qwen")
    ids, shares, losses = ask(asked, module, pieces, options)
    start = 0
    for piece, loss in zip(pieces, losses.tolist(), strict=True):
        tokens = torch.tensor([[*cutter.before, *piece.tokens.ids.tolist()]])
        with torch.no_grad():
            logs = torch.log_softmax(module(tokens).logits[0].double(), -1)
        first, count = len(cutter.before), len(piece.tokens)
        wanted = logs[first - 1 : -1]
        assert loss == pytest.approx(-float(wanted.gather(-1, tokens[0, first:, None]).mean()), rel=1e-5)
        values, best = wanted.exp().topk(6, -1)
        found = [
            dict(zip(*each, strict=True)) for each in zip(ids[start:].tolist(), shares[start:].tolist(), strict=True)
        ]
        for place in range(count):
            want = dict(zip(best[place].tolist(), (values[place] / values[place].sum()).tolist(), strict=True))
            assert found[place] == pytest.approx(want, rel=2e-3)
        start += count
    assert start == len(ids)


def test_another_model_is_heard_where_it_has_read_the_same_text(members: dict[str, Member]) -> None:
    """Its distribution at a letter is that of the model given all before it, carried over token by token.

    What it read there is what the target reads there: where that is longer, with all of its tokens that are in it.
    """
    asked = teacher(members, "gpt2", "llama")
    module = asked.load()
    pieces = some(members, "llama")
    ids, shares, _ = ask(asked, module, pieces, FuseOptions(top=300))
    start = heard = longer = 0
    for piece in pieces:
        own, theirs = piece.tokens, asked.cutter.cut(piece.text).within(piece.start, piece.end)
        with torch.no_grad():
            chances = torch.softmax(module(torch.tensor([theirs.ids.tolist()])).logits[0].double(), -1).numpy()
        for place, letter in enumerate(own.starts.tolist()):
            row = {n: s for n, s in zip(ids[start + place].tolist(), shares[start + place].tolist(), strict=True) if s}
            at = theirs.starts.tolist().index(letter) if letter in theirs.starts else 0
            first = place > 0 and own.starts[place - 1] == letter
            if at == 0 or letter == 0 or first:  # gpt2 has nothing before its first token
                assert row == {int(own.ids[place]): 1.0}
                continue
            wanted: dict[int, float] = {}
            for number, (token, share) in zip(
                asked.vocabulary.of(np.arange(300)).tolist(), enumerate(chances[at - 1].tolist()), strict=True
            ):
                if token == theirs.ids[at]:
                    number, end = int(own.ids[place]), at + 1
                    while end < len(theirs) and theirs.ends[end] <= own.ends[place]:
                        share, end, longer = share * chances[end - 1, theirs.ids[end]], end + 1, longer + 1
                if number >= 0:
                    wanted[number] = wanted.get(number, 0.0) + share
            heard += 1
            whole = sum(wanted.values())
            assert row == pytest.approx({number: share / whole for number, share in wanted.items()}, rel=2e-3)
        start += len(own)
    assert heard > 20 and longer > 2


def test_losses_of_models_of_other_tokenizers_are_nats_of_the_same_text(members: dict[str, Member]) -> None:
    """Nats for each of the target's tokens: whatever the teacher's tokens, the text is the same."""
    asked = teacher(members, "qwen", "llama")
    (piece,) = pieces_of(words(random.Random(5), 9), 0, members["llama"].cutter, 64)
    _, _, losses = ask(asked, asked.load(), [piece], FuseOptions())
    tokens = asked.cutter.cut(piece.text).ids.tolist()
    with torch.no_grad():
        logs = torch.log_softmax(asked.load()(torch.tensor([[*asked.cutter.before, *tokens]])).logits[0].double(), -1)
    nats = -float(logs[:-1].gather(-1, torch.tensor(tokens)[:, None]).sum())
    assert losses[0] == pytest.approx(nats / len(piece.tokens), rel=1e-5)


def test_a_teacher_with_a_short_window_teaches_the_beginning(members: dict[str, Member]) -> None:
    asked = replace(teacher(members, "qwen", "llama"), longest=6)
    pieces = some(members, "llama")
    for piece in pieces:
        found = question(asked, piece, "spans")
        assert len(found.tokens) <= 5
        assert (found.match[piece.tokens.starts >= found.tokens.ends[-1]] == -1).all()
