"""Edit distances, tokens matched across tokenizers, vocabularies mapped, distributions carried over."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergery.alignment.fusion.distances import Nearest, edit_distances, letters_of, pair_distances
from mergery.alignment.fusion.mapping import Vocabulary, VocabularyMap, carry_over, most_paired
from mergery.alignment.fusion.pieces import Tokens, cutter_of, pieces_of
from mergery.alignment.fusion.warping import match_spans, match_warped, warp
from mergery.errors import CheckpointError
from tests.alignment.fusion.conftest import byte_level, pieces, words

TEXT = st.text("abc é", max_size=12)


def levenshtein(one: str, other: str) -> int:
    """The table, cell by cell."""
    table = [[i + j if not i * j else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i, a in enumerate(one, 1):
        for j, b in enumerate(other, 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a != b))
    return table[-1][-1]


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=20))
def test_distances_are_levenshteins(pairs: list[tuple[str, str]]) -> None:
    assert pair_distances(pairs).tolist() == [levenshtein(one, other) for one, other in pairs]


def test_one_text_against_many() -> None:
    others = ["kitten", "sitting", "", "s"]
    assert edit_distances(letters_of(["sitting"]), letters_of(others)).tolist() == [3, 0, 7, 6]


@given(TEXT, st.lists(TEXT, min_size=1, max_size=30))
def test_the_nearest_are_all_at_the_least_distance(text: str, others: list[str]) -> None:
    apart = [levenshtein(text, other) for other in others]
    assert Nearest(others).of(text).tolist() == [n for n, each in enumerate(apart) if each == min(apart)]


# --- warping ----------------------------------------------------------------------------------------------------------


def naive_cost(target: list[str], source: list[str]) -> float:
    """The least cost of a path, cell by cell, in Python's floats."""
    table = {(0, 0): 0.0}
    for i in range(1, len(target) + 1):
        for j in range(1, len(source) + 1):
            ways = [table.get(way, float("inf")) for way in ((i - 1, j - 1), (i - 1, j), (i, j - 1))]
            table[i, j] = levenshtein(target[i - 1].strip(), source[j - 1].strip()) + min(ways)
    return table[len(target), len(source)]


WORDS = st.lists(st.text("ab ", min_size=1, max_size=4), min_size=1, max_size=9)


@given(WORDS, WORDS)
def test_the_path_is_the_cheapest(target: list[str], source: list[str]) -> None:
    path = warp(target, source, None)
    cost = sum(levenshtein(target[i].strip(), source[j].strip()) for i, j in path)
    assert cost == naive_cost(target, source)
    assert path[0] == (0, 0) and path[-1] == (len(target) - 1, len(source) - 1)
    assert all(0 <= b[0] - a[0] <= 1 and 0 <= b[1] - a[1] <= 1 and a != b for a, b in itertools.pairwise(path))


def test_a_path_worked_by_hand() -> None:
    """`un|happy` against `unhappy`: both parts go with the whole; `dogs` goes with `dogs`, and with it alone.

    ed       unhappy  dogs        D        unhappy  dogs
    un       5        4           un       5        9
    happy    2        5           happy    7        10
    dogs     7        0           dogs     14       7
    """
    assert warp(["un", "happy", " dogs"], ["unhappy", " dogs"]) == [(0, 0), (1, 0), (2, 1)]
    assert match_warped(["un", "happy", " dogs"], ["unhappy", " dogs"]).tolist() == [-1, -1, 1]


def test_the_same_tokens_are_matched_along_the_diagonal() -> None:
    tokens = words(random.Random(3), 300).split()
    assert match_warped(tokens, tokens).tolist() == list(range(300))


def test_a_band_that_is_wide_enough_changes_nothing() -> None:
    rng = random.Random(4)
    whole = "".join(rng.choices("abcd", k=400))
    one = [whole[n : n + 3] for n in range(0, 400, 3)]
    other = [whole[n : n + 5] for n in range(0, 400, 5)]
    assert warp(one, other, 64) == warp(one, other, None)


# --- spans ------------------------------------------------------------------------------------------------------------


def tokens_of(lengths: list[int]) -> Tokens:
    ends = np.cumsum(lengths)
    return Tokens(np.arange(len(lengths), dtype=np.int32), ends - lengths, ends)


def test_tokens_that_begin_at_the_same_letter_are_matched() -> None:
    """`un|happy| dogs` and `unhap|py| dogs`: the second token of the one begins within the first of the other."""
    assert match_spans(tokens_of([2, 5, 5]), tokens_of([5, 2, 5])).tolist() == [0, -1, 2]
    assert match_spans(tokens_of([3, 4]), tokens_of([3, 4])).tolist() == [0, 1]


def test_tokens_cover_the_text_whatever_the_tokenizer_trims() -> None:
    rng = random.Random(5)
    texts = [words(rng, 20) for _ in range(20)]
    text = "ab  é\ncad 中 b "
    for tokenizer in (byte_level(270, texts), pieces(140, texts)):
        tokens = cutter_of(tokenizer, "model").cut(text)
        assert tokens.starts[0] == 0 and tokens.ends[-1] in (len(text), len(text) - 1)
        assert all(a <= b for a, b in itertools.pairwise(tokens.starts))
        gaps = tokens.starts[1:] - tokens.ends[:-1]
        assert (gaps <= 0).all()  # none; bytes of one letter share it
    cutter = cutter_of(byte_level(262, texts), "model")
    three = cutter.cut("a中b")
    assert three.starts.tolist() == [0, 1, 1, 1, 2] and match_spans(three, three).tolist() == [0, 1, -1, -1, 4]


def test_the_parts_of_a_text_are_all_of_it_and_begin_to_be_learnt_at_the_answer() -> None:
    rng = random.Random(6)
    text = words(rng, 60)
    cutter = cutter_of(pieces(140, [text]), "model")
    parts = list(pieces_of(text, 0, cutter, 16))
    assert np.concatenate([part.tokens.ids for part in parts]).tolist() == cutter.cut(text).ids.tolist()
    assert {len(part.tokens) for part in parts[:-1]} == {15} and {part.learnt for part in parts} == {0}
    bare = cutter_of(byte_level(262, [text]), "model")
    assert bare.before == () and next(pieces_of(text, 0, bare, 16)).learnt == 1  # nothing foretells the first
    late = next(pieces_of(text, len(text) - 3, cutter, 1000))
    assert late.tokens.starts[late.learnt] >= len(text) - 3 > late.tokens.starts[late.learnt - 1]


def test_a_first_token_in_the_text_is_not_doubled_and_a_token_needs_a_row() -> None:
    rng = random.Random(6)
    tokenizer = pieces(140, [words(rng, 60)])
    cutter = cutter_of(tokenizer, "model")
    written = cutter.cut("<s>ab cad")
    assert cutter.before == (1,) and 1 not in written.ids and written.starts[0] == 3
    few = cutter_of(tokenizer, "model", rows=50)
    with pytest.raises(CheckpointError, match="the model has no row for the token"):
        few.cut("ab cad")
    assert max(Vocabulary(tokenizer, "model", rows=50).texts) == 49


def test_a_tokenizer_that_tells_no_places_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(CheckpointError, match="does not tell where its tokens begin"):
        cutter_of(Slow(), "model")


# --- vocabularies -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two() -> tuple[Vocabulary, Vocabulary]:
    rng = random.Random(7)
    texts = [words(rng, 30) for _ in range(60)]
    return Vocabulary(byte_level(330, texts), "source"), Vocabulary(pieces(160, texts), "target")


def test_a_vocabulary_on_itself_is_the_identity(two: tuple[Vocabulary, Vocabulary]) -> None:
    for one in two:
        for by in ("exact", "first", "edit"):
            every = np.arange(one.size)
            assert VocabularyMap(one, one, by).of(every).tolist() == every.tolist()


def test_tokens_go_to_the_same_bytes_and_roles(two: tuple[Vocabulary, Vocabulary]) -> None:
    source, target = two
    exact = VocabularyMap(source, target, "exact")
    for text in (b" a", b"b", b" ab", "é".encode()):
        if text in source.ids and text in target.ids:
            assert exact.of(np.array([source.ids[text]])).tolist() == [target.ids[text]]
    roles = [source.roles["bos_token"], source.roles["eos_token"]]
    assert exact.of(np.array(roles)).tolist() == [target.roles["bos_token"], target.roles["eos_token"]]
    assert exact.of(np.array([source.size + 5])).tolist() == [-1]  # a row of logits without a token


def test_first_tokens_and_least_distances(two: tuple[Vocabulary, Vocabulary]) -> None:
    source, target = two
    first, edit = VocabularyMap(source, target, "first"), VocabularyMap(source, target, "edit")
    lacking = [number for number, text in source.texts.items() if text not in target.ids and len(text) > 1]
    assert lacking
    for number in lacking[:20]:
        text = source.texts[number]
        began = first.of(np.array([number])).item()
        assert text.startswith(target.texts[began])
        if text.startswith(b" ") and text.isascii():  # in the middle of a text, as the target's tokenizer cuts it
            whole = cutter_of(target.tokenizer, "target").cut("é" + text.decode())
            assert began == whole.ids[1]
        near = target.texts[edit.of(np.array([number])).item()].decode("utf-8", "surrogateescape").strip()
        own = text.decode("utf-8", "surrogateescape").strip()
        least = min(levenshtein(own, each.decode("utf-8", "surrogateescape").strip()) for each in target.texts.values())
        assert levenshtein(own, near) == least


def test_what_the_data_pair_most_often_comes_before_the_nearest(two: tuple[Vocabulary, Vocabulary]) -> None:
    source, target = two
    number = next(number for number, text in source.texts.items() if text not in target.ids and len(text) > 1)
    assert most_paired({(1, 5): 2, (1, 4): 3, (1, 3): 3, (2, 9): 1}) == {1: 3, 2: 9}
    assert VocabularyMap(source, target, "counts", {number: 7}).of(np.array([number])).tolist() == [7]


def test_distributions_are_added_up_and_sum_to_one() -> None:
    """Two tokens become 4, one has none: (.2 + .3) / .9 and .4 / .9."""
    ids, shares = carry_over(np.array([[4, -1, 2, 4]]), np.array([[0.2, 0.1, 0.4, 0.3]]))
    found = {number: share for number, share in zip(ids[0].tolist(), shares[0].tolist(), strict=True) if share}
    assert found == pytest.approx({4: 0.5 / 0.9, 2: 0.4 / 0.9})
    nothing = carry_over(np.array([[-1, -1]]), np.array([[0.5, 0.5]]))[1]
    assert nothing.tolist() == [[0.0, 0.0]]


@given(st.integers(0, 10_000))
def test_carrying_over_agrees_with_a_table(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids, shares = rng.integers(-1, 6, (7, 5)), rng.random((7, 5))
    got, parts = carry_over(ids, shares)
    for row in range(7):
        table: dict[int, float] = {}
        for number, share in zip(ids[row].tolist(), shares[row].tolist(), strict=True):
            if number >= 0:
                table[number] = table.get(number, 0.0) + share
        whole = sum(table.values())
        wanted = {number: share / whole for number, share in table.items()} if whole else {}
        found: dict[int, float] = {}
        for number, share in zip(got[row].tolist(), parts[row].tolist(), strict=True):
            if share:
                assert number not in found
                found[number] = share
        assert found == pytest.approx(wanted)
