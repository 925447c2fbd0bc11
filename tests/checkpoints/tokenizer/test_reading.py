"""Tokenizers are read from files alone, as the tokenizers library reads them; broken files are named, never followed."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.tokenizer.reading import BYTE_BPE, UNIGRAM, WORDPIECE, read_tokenizer
from mergery.checkpoints.tokenizer.token_bytes import ALONE, RUNS, THREES, digits, meaning
from mergery.errors import CheckpointError
from tests.views.vocabulary.texts import ENGLISH, KOREAN, byte_bpe, save, unigram, wordpiece

BOTH = ENGLISH + KOREAN
MAKERS: dict[str, Callable[[list[str], int], Tokenizer]] = {BYTE_BPE: byte_bpe, UNIGRAM: unigram, WORDPIECE: wordpiece}


class Files(Checkpoint):
    """A model that is only side files."""

    def __init__(self, **files: Any) -> None:
        self.label = self.location = "m"
        self.texts = {
            name.replace("_json", ".json").replace("_txt", ".txt").replace("_model", ".model"): text
            if isinstance(text, bytes)
            else json.dumps(text).encode()
            for name, text in files.items()
        }

    @property
    def tensors(self) -> dict[str, Any]:
        return {}

    def read(self, name: str, start: int, stop: int, into: Any) -> None:
        raise KeyError(name)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(sorted(self.texts))

    def file(self, name: str) -> bytes:
        return self.texts[name]


def folder(path: Path) -> Files:
    return Files(**{file.name: file.read_bytes() for file in path.iterdir()})


@pytest.mark.parametrize("kind", MAKERS)
def test_tokens_are_those_of_the_library(kind: str, tmp_path: Path) -> None:
    tokenizer = MAKERS[kind](BOTH, 400)
    tokenizer.add_special_tokens(["<|im_start|>"])
    tokenizer.add_tokens(["mergery"])
    read = read_tokenizer(folder(save(tokenizer, tmp_path, eos_token="</s>")))
    assert read is not None
    assert read.kind == kind
    assert read.tokens == tokenizer.get_vocab()
    assert read.special == {"eos_token": "</s>"}
    assert {word: entry["special"] for word, entry in read.added.items()}["mergery"] is False
    assert read.added["<|im_start|>"]["special"] is True
    assert read.end == tokenizer.get_vocab_size()
    if kind == BYTE_BPE:
        assert all(a + b in read.tokens for a, b in read.merges)


def test_older_files() -> None:
    merges = b"#version: 0.2\nt h\nth e\n"
    vocab = {"t": 0, "h": 1, "e": 2, "th": 3, "the": 4}
    read = read_tokenizer(Files(vocab_json=vocab, merges_txt=merges, added_tokens_json={"<x>": 5}))
    assert read is not None
    assert (read.kind, read.form, read.merges) == (BYTE_BPE, "vocab.json", (("t", "h"), ("th", "e")))
    assert read.tokens == {**vocab, "<x>": 5}
    read = read_tokenizer(Files(vocab_txt=b"[UNK]\nloom\n##s\n"))
    assert read is not None
    assert (read.kind, read.tokens) == (WORDPIECE, {"[UNK]": 0, "loom": 1, "##s": 2})


def test_no_tokenizer_and_one_that_is_only_binary() -> None:
    assert read_tokenizer(Files(tokenizer_config_json={})) is None
    with pytest.raises(CheckpointError, match=r"the tokenizer in tokenizer\.model cannot be read") as caught:
        read_tokenizer(Files(**{"tokenizer.model": b"\x0a\x0e"}))
    assert "save_pretrained, which writes tokenizer.json" in caught.value.hint


def test_what_tokens_stand_for(tmp_path: Path) -> None:
    pieces, letters = unigram(BOTH, 300), byte_bpe(BOTH, 500)
    a, b = (read_tokenizer(folder(save(t, tmp_path / str(i)))) for i, t in enumerate((pieces, letters)))
    assert a is not None
    assert b is not None
    assert meaning("Ġthe", b) == meaning("\u2581the", a) == (False, b" the")
    assert meaning("<s>", a) == meaning("<s>", b) == (True, b"<s>")
    spelt = "".join(letters.encode("직공").tokens)
    assert meaning(spelt, b) == (False, "직공".encode())


@pytest.mark.parametrize(
    ("split", "way"),
    [
        ({"type": "Digits", "individual_digits": True}, ALONE),
        ({"type": "Split", "pattern": {"Regex": r"(?i:'s)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{N}]+"}}, THREES),
        ({"type": "Split", "pattern": {"Regex": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"}}, ALONE),
        ({"type": "Split", "pattern": {"Regex": r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+"}}, RUNS),
        (None, RUNS),
    ],
)
def test_how_numbers_are_cut(split: Any, way: str) -> None:
    words = {"1": 0, "2": 1, "17": 2, "1785": 3}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "1"}
    read = read_tokenizer(Files(tokenizer_json={"model": model, "pre_tokenizer": split}))
    assert read is not None
    assert digits(read) == way


def test_tokens_tell_how_numbers_are_cut_where_nothing_else_does() -> None:
    model = {"type": "WordLevel", "vocab": {"1": 0, "2": 1, "loom": 2}}
    read = read_tokenizer(Files(tokenizer_json={"model": model}))
    assert read is not None
    assert digits(read) == ALONE


BPE = {"type": "BPE", "vocab": {"a": 0}, "merges": []}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_json": b"{"}, "m/tokenizer.json:1:2: this is not valid JSON"),
        ({"tokenizer_json": {}}, "m/tokenizer.json: the tokenizer has no model"),
        ({"tokenizer_json": {"model": {"type": "Magic"}}}, "a tokenizer of the kind 'Magic' cannot be read"),
        ({"tokenizer_json": {"model": {**BPE, "vocab": 3}}}, "the tokenizer has no vocabulary"),
        ({"tokenizer_json": {"model": {**BPE, "vocab": {"a": -1}}}}, "the id of 'a' is -1"),
        ({"tokenizer_json": {"model": {**BPE, "vocab": {"a": 1e9}}}}, "the id of 'a' is 1000000000.0"),
        ({"tokenizer_json": {"model": {**BPE, "vocab": {"a": 1 << 70}}}}, "the id of 'a' is"),
        ({"tokenizer_json": {"model": {**BPE, "merges": [["a"]]}}}, "the merge ['a'] cannot be read"),
        ({"tokenizer_json": {"model": {**BPE, "merges": ["a b c"]}}}, "the merge 'a b c' cannot be read"),
        ({"tokenizer_json": {"model": {**BPE, "merges": 7}}}, "`merges` is not a list"),
        ({"tokenizer_json": {"model": {"type": "Unigram", "vocab": [["a", "b"]]}}}, "piece 0 is ['a', 'b']"),
        ({"tokenizer_json": {"model": {"type": "Unigram", "vocab": [["a", float("nan")]]}}}, "piece 0 is ['a', nan]"),
        ({"tokenizer_json": {"model": BPE, "added_tokens": [{"id": 0}]}}, "the added token {'id': 0} cannot be read"),
        ({"tokenizer_json": {"model": BPE, "added_tokens": {"a": 1}}}, "`added_tokens` is not a list"),
        (
            {
                "tokenizer_json": {"model": BPE},
                "tokenizer_config_json": {"added_tokens_decoder": {"x": {"content": "y"}}},
            },
            "m/tokenizer_config.json: the added token",
        ),
        ({"vocab_json": {"a": 0}, "merges_txt": b"\xff"}, "m/merges.txt: this file is not valid UTF-8"),
    ],
)
def test_broken_files(files: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(Files(**files))
    assert message in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150)
@given(
    model=st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["BPE", "Unigram", "WordPiece", "WordLevel", 3, None]),
            "vocab": st.dictionaries(st.text(max_size=3), st.integers(-1, 9), max_size=4) | json_values,
            "merges": st.lists(st.text(max_size=4) | st.lists(st.text(max_size=2), max_size=3), max_size=3)
            | json_values,
        },
    ),
    added=json_values,
    decoder=json_values,
)
def test_any_file_is_read_or_refused(model: Any, added: Any, decoder: Any) -> None:
    files = {
        "tokenizer_json": {"model": model, "added_tokens": added, "pre_tokenizer": added, "decoder": decoder},
        "tokenizer_config_json": {"added_tokens_decoder": decoder, "eos_token": added},
    }
    try:
        read = read_tokenizer(Files(**files))
    except CheckpointError:
        return
    assert read is not None
    assert all(isinstance(index, int) and index >= 0 for index in read.tokens.values())
    digits(read)


def test_time_grows_with_the_size_of_the_file() -> None:
    def took(count: int) -> float:
        model = {
            "type": "BPE",
            "vocab": {f"a{i}": i for i in range(count)},
            "merges": [f"a{i} a{i}" for i in range(count)],
        }
        files = Files(
            tokenizer_json={"model": model, "added_tokens": [{"id": i, "content": f"b{i}"} for i in range(count)]}
        )
        start = time.process_time()
        read_tokenizer(files)
        return time.process_time() - start

    took(2000)
    gc.disable()  # it looks at whatever other tests have left
    try:
        few, many = (min(took(count) for _ in range(3)) for count in (4000, 64_000))
    finally:
        gc.enable()
    assert many < 60 * few + 0.2  # 16 times the size; by its square it were 256
