"""Tokenizers in GGUF give the ids of the tokenizers that they were made from."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from mergery.checkpoints.gguf.cutting import pre_tokenizer
from mergery.checkpoints.gguf.families import family_of_kind
from mergery.checkpoints.gguf.tokens import GgufTokenizer

tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock!  We'll see,\n\n\tthey've gone.",
    "ünïcödé 日本語 한국어 🙂  e\u0301 \u00a0 x = f(y)**2;  // tokens",
    " leading and trailing   ",
]
LLAMA = family_of_kind("llama")
GEMMA = family_of_kind("gemma2")
assert LLAMA and GEMMA


def rebuilt(metadata: dict[str, Any], family: Any = LLAMA) -> Any:
    """The tokenizer that the library reads from what is rebuilt."""
    made = GgufTokenizer({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, family, "x.gguf")
    assert not made.lost
    return tokenizers.Tokenizer.from_str(made.tokenizer())


@pytest.mark.parametrize("word", ["gpt-2", "llama-bpe", "qwen2", "smollm", "tekken", "gpt-4o"])
def test_byte_level(word: str) -> None:
    original = tokenizers.Tokenizer(tokenizers.models.BPE())
    rule = pre_tokenizer(word)
    assert rule
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    original.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps({**empty, "pre_tokenizer": rule})).pre_tokenizer
    if word == "qwen2":
        original.normalizer = tokenizers.normalizers.NFC()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    original.train_from_iterator(TEXTS * 3, trainer)
    original.add_tokens(["<think>"])
    state = json.loads(original.to_str())
    ordered = sorted(original.get_vocab(), key=original.get_vocab().__getitem__)
    kinds = [3 if token == "<|end|>" else 4 if token == "<think>" else 1 for token in ordered]
    again = rebuilt({
        "model": "gpt2", "pre": word, "tokens": ordered, "token_type": kinds, "bos_token_id": 0, "add_bos_token": True,
        "merges": [" ".join(pair) for pair in state["model"]["merges"]],
    })  # fmt: skip
    for text in [*TEXTS, "a<|end|>b <think> c"]:
        assert again.encode(text, add_special_tokens=False).ids == original.encode(text).ids
        assert again.encode(text).ids == [0, *original.encode(text).ids]
        if word != "qwen2":  # that one writes e and an accent as one character
            assert again.decode(again.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("family", [LLAMA, GEMMA], ids=["llama", "gemma"])
def test_sentencepiece(family: Any) -> None:
    pieces = pytest.importorskip("sentencepiece", reason="SentencePiece trains the model that this compares with")
    model = io.BytesIO()
    prefix = family is LLAMA
    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_writer=model, vocab_size=430, model_type="bpe", byte_fallback=True,
        add_dummy_prefix=prefix, remove_extra_whitespaces=False, normalization_rule_name="identity", minloglevel=2,
        user_defined_symbols=["<think>"], character_coverage=0.98,
    )  # fmt: skip
    original = pieces.SentencePieceProcessor(model_proto=model.getvalue())
    count = original.get_piece_size()
    tokens = [original.id_to_piece(number) for number in range(count)]
    kinds = [
        next(
            (
                kind
                for kind, told in ((2, original.is_unknown), (3, original.is_control), (6, original.is_byte))
                if told(n)
            ),
            1,
        )
        for n in range(count)
    ]
    kinds[tokens.index("<think>")] = 4
    scores = [float(original.get_score(number)) for number in range(count)]
    again = rebuilt(
        {"model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores, "bos_token_id": 1, "eos_token_id": 2,
         "unknown_token_id": 0, "add_space_prefix": prefix}, family,
    )  # fmt: skip
    for text in TEXTS:
        ids = original.encode(text)
        assert again.encode(text, add_special_tokens=False).ids == ids
        assert again.encode(text).ids == [1, *ids]
        assert again.decode(ids) == original.decode(ids)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"model": "gpt2", "pre": "no such", "tokens": ["a"], "merges": ["a b"]}, "'no such'"),
        ({"model": "gpt2", "pre": "gpt-2", "tokens": ["a"]}, "no merges"),
        ({"model": "llama", "tokens": ["a"]}, "no scores"),
        ({"model": "bert", "tokens": ["a"]}, "'bert'"),
        ({}, "none"),
    ],
)
def test_what_cannot_be_rebuilt_is_said(metadata: dict[str, Any], why: str) -> None:
    made = GgufTokenizer({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, LLAMA, "x.gguf")
    assert why in made.lost
    assert not made.files()
