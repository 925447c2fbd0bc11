"""Tiny Llamas with real tokenizers: trained here, saved as transformers saves them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import tokenizers

from mergery.checkpoints.gguf.cutting import pre_tokenizer
from mergery.checkpoints.gguf.families import family_of_kind
from mergery.checkpoints.gguf.tokens import GgufTokenizer
from mergery.testing.families import FAMILIES, make

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock!  We'll see,\n\n\tthey've gone.",
    "Hello, world! ünïcödé 日本語 한국어 🙂 x = f(y)**2;  // tokens",
    "leading and trailing   ",
    "a<|end|>b",
]
LLAMA = next(family for family in FAMILIES if family.name == "Llama")


def tiny(folder: Path, rows: int) -> Path:
    """A Llama with so many rows of embeddings."""
    from dataclasses import replace

    return make(replace(LLAMA, config={**LLAMA.config, "vocab_size": rows}), folder)


def byte_level_folder(folder: Path, word: str) -> Any:
    """A Llama with a byte-level tokenizer that cuts text as a word of llama.cpp says; returns the tokenizer."""
    rule = pre_tokenizer(word)
    empty = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    found = tokenizers.Tokenizer.from_str(json.dumps({**empty, "pre_tokenizer": rule}))
    if word == "qwen2":
        found.normalizer = tokenizers.normalizers.NFC()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<|end|>"],
        show_progress=False,
    )  # fmt: skip
    found.train_from_iterator(TEXTS[:3] * 3, trainer)
    found.decoder = tokenizers.decoders.ByteLevel()
    found.add_tokens(["<think>"])
    state = json.loads(found.to_str())
    state["model"]["ignore_merges"] = word == "llama-bpe"
    found = tokenizers.Tokenizer.from_str(json.dumps(state))
    tiny(folder, found.get_vocab_size() + 3)
    _save(folder, found, {"eos_token": "<|end|>", "bos_token": "<|end|>"})
    return found


def pieces_folder(folder: Path, *, prefix: bool) -> Any:
    """A Llama with a tokenizer that SentencePiece trained, as transformers turns it into a tokenizer.json."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:3] * 20), model_writer=model, vocab_size=420, model_type="bpe", byte_fallback=True,
        add_dummy_prefix=prefix, remove_extra_whitespaces=False, normalization_rule_name="identity", minloglevel=2,
        character_coverage=0.98,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    count = pieces.get_piece_size()
    kinds = [
        next(
            (kind for kind, told in ((2, pieces.is_unknown), (3, pieces.is_control), (6, pieces.is_byte)) if told(n)), 1
        )
        for n in range(count)
    ]
    metadata = {
        "model": "llama", "tokens": [pieces.id_to_piece(n) for n in range(count)], "token_type": kinds,
        "scores": [float(pieces.get_score(n)) for n in range(count)], "unknown_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "add_space_prefix": prefix,
    }  # fmt: skip
    family = family_of_kind("llama")
    assert family
    text = GgufTokenizer({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, family, "").tokenizer()
    found = tokenizers.Tokenizer.from_str(text)
    tiny(folder, count)
    _save(folder, found, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    return found


def _save(folder: Path, tokenizer: Any, special: dict[str, str]) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special, "chat_template": "{{ messages[0].content }}"}
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
