"""The output's tokenizer: text that either parent has encoded decodes as before, and new text is cut soundly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from mergery.checkpoints.tokenizer.reading import Tokenizer as Read
from mergery.checkpoints.tokenizer.reading import read_tokenizer
from mergery.errors import PlanError
from mergery.recipe import Vocabulary
from mergery.views.vocabulary.choosing import Member, choose_tokens
from mergery.views.vocabulary.rebuilding import Rebuilt, differences, refuse_unlike
from tests.checkpoints.tokenizer.test_reading import Files, folder
from tests.views.vocabulary.texts import ENGLISH, KOREAN, SAID, byte_bpe, save, unigram, wordpiece

MAKERS: dict[str, Callable[..., Tokenizer]] = {"bpe": byte_bpe, "unigram": unigram, "wordpiece": wordpiece}


def read(tokenizer: Tokenizer, path: Path) -> Read:
    found = read_tokenizer(folder(save(tokenizer, path)))
    assert found is not None
    return found


def join(first: Read, second: Read, **wanted: Any) -> Rebuilt:
    members = [Member("a", first, first.end), Member("b", second, second.end)]
    chosen = choose_tokens(Vocabulary("union", **wanted), first, first.end, members)
    refuse_unlike(chosen, members)
    return Rebuilt(chosen, members, union=True)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_union_knows_both(kind: str, tmp_path: Path) -> None:
    english, korean = MAKERS[kind](ENGLISH, 300), MAKERS[kind](KOREAN, 320)
    korean.add_special_tokens(["<|im_start|>"])
    first, second = read(english, tmp_path / "a"), read(korean, tmp_path / "b")
    rebuilt = join(first, second, add={"<new>": True})
    joined = Tokenizer.from_str(rebuilt.files({"tokenizer.json": b""})["tokenizer.json"].decode())
    assert joined.get_vocab() == rebuilt.chosen.tokens
    assert set(joined.get_vocab()) == set(first.tokens) | set(second.tokens) | {"<new>"}
    assert all(joined.token_to_id(token) == index for token, index in first.tokens.items())
    assert joined.encode("<|im_start|><new>", add_special_tokens=False).tokens == ["<|im_start|>", "<new>"]
    texts = [*ENGLISH, *KOREAN]
    for text in texts:
        assert joined.decode(joined.encode(text).ids) == normal(kind, text, joined)
        for parent in (english, korean):  # what a parent has encoded, by its tokens' new ids
            ids = parent.encode(text, add_special_tokens=False).ids
            moved = [joined.token_to_id(parent.id_to_token(index)) for index in ids]
            assert joined.decode(moved) == parent.decode(ids)
    assert not rebuilt.dropped


def normal(kind: str, text: str, joined: Tokenizer) -> str:
    """WordPiece decodes with spaces of its own and knows no letter that no text had."""
    return text if kind != "wordpiece" else joined.decode(joined.encode(text).ids)


def test_bpe_cuts_the_leads_texts_no_finer_than_the_lead(tmp_path: Path) -> None:
    english, korean = byte_bpe(ENGLISH, 300), byte_bpe(KOREAN, 320)
    rebuilt = join(read(english, tmp_path / "a"), read(korean, tmp_path / "b"))
    assert list(map(tuple, rebuilt.data["model"]["merges"]))[: len(rebuilt.lead.merges)] == list(rebuilt.lead.merges)
    joined = Tokenizer.from_str(json.dumps(rebuilt.data))
    assert [joined.encode(text).tokens for text in ENGLISH] == [english.encode(text).tokens for text in ENGLISH]
    for text in SAID:
        assert joined.decode(joined.encode(text).ids) == text
        assert len(joined.encode(text).ids) <= min(len(each.encode(text).ids) for each in (english, korean))


def test_merges_of_parts_that_are_no_tokens_are_dropped_and_counted(tmp_path: Path) -> None:
    first = read(byte_bpe(ENGLISH, 290), tmp_path / "a")
    second = read(byte_bpe(KOREAN, 290), tmp_path / "b")
    broken = {
        **second.data,
        "model": {**second.data["model"], "merges": [["q", "zz"], *second.data["model"]["merges"]]},
    }
    found = read_tokenizer(Files(tokenizer_json=broken))
    assert found is not None
    rebuilt = join(first, found)
    assert rebuilt.dropped == {"b": 1}
    Tokenizer.from_str(json.dumps(rebuilt.data))


def test_unigram_scores_of_the_other_count_like_the_leads(tmp_path: Path) -> None:
    first, second = read(unigram(ENGLISH, 200), tmp_path / "a"), read(unigram(ENGLISH + KOREAN, 300), tmp_path / "b")
    shifted = {token: score - 3.0 for token, score in second.scores.items()}
    model = {**second.data["model"], "vocab": [[token, shifted[token]] for token, _ in second.data["model"]["vocab"]]}
    lower = read_tokenizer(Files(tokenizer_json={**second.data, "model": model}))
    assert lower is not None
    plain, moved = (dict(map(tuple, join(first, each).data["model"]["vocab"])) for each in (second, lower))
    assert plain == pytest.approx(moved)


def test_what_keeps_tokenizers_apart(tmp_path: Path) -> None:
    first = read(byte_bpe(ENGLISH, 300), tmp_path / "a")
    other = byte_bpe(KOREAN, 300)
    other.normalizer = normalizers.NFKC()
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel()]
    )
    apart = read(other, tmp_path / "b")
    assert [line.split(":")[0] for line in differences(first, apart)] == [
        "their normalizers differ",
        "their pre_tokenizers differ",
    ]
    with pytest.raises(PlanError) as caught:
        join(first, apart)
    assert caught.value.what == "the tokenizers of 'm' and 'b' cannot be joined"
    assert 'their normalizers differ: null and {"type": "NFKC"}' in caught.value.why
    assert "mergery vocabulary transplant" in caught.value.hint
    unlike = read(unigram(KOREAN, 300), tmp_path / "c")
    assert differences(first, unlike) == ["m has a byte-level BPE tokenizer and m a unigram one"]


def test_added_tokens_join_whatever_cuts_the_rest(tmp_path: Path) -> None:
    plain, other = byte_bpe(ENGLISH, 300), byte_bpe(ENGLISH, 300)
    other.add_special_tokens(["<|im_start|>"])
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    rebuilt = join(read(plain, tmp_path / "a"), read(other, tmp_path / "b"))
    assert rebuilt.added[-1]["content"] == "<|im_start|>"
    joined = Tokenizer.from_str(json.dumps(rebuilt.data))
    assert joined.token_to_id("<|im_start|>") == 300


def test_older_files_are_written_as_they_were_read() -> None:
    merges = b"#version: 0.2\nt h\nth e\n"
    first = read_tokenizer(Files(vocab_json={"t": 0, "h": 1, "e": 2, "th": 3, "the": 4}, merges_txt=merges))
    second = read_tokenizer(
        Files(vocab_json={"t": 0, "h": 1, "e": 2, "he": 3}, merges_txt=b"h e\n", added_tokens_json={"<x>": 4})
    )
    assert first is not None
    assert second is not None
    out = join(first, second).files({"vocab.json": b"", "merges.txt": b"", "tokenizer.model": b"old"})
    assert json.loads(out["vocab.json"]) == {"t": 0, "h": 1, "e": 2, "th": 3, "the": 4, "he": 5, "<x>": 6}
    assert out["merges.txt"] == merges + b"h e\n"
    assert json.loads(out["added_tokens.json"]) == {"<x>": 6}
    assert "tokenizer.model" not in out
