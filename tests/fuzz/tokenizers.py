# ruff: noqa: E501 - tables of odd values
"""The files that say how text becomes tokens."""

from __future__ import annotations

import random
from typing import Any

from tests.fuzz.damage import NAMES, NUMBERS, as_json, noise, sometimes, spoil

TOKENS = (
    "a", "b", "ab", "\u0120a", "\u2581a", "</s>", "<unk>", "<|im_start|>", "<0x0A>", "\u00e9", "e\u0301", " ", "\n", "{{", "]]>", *NAMES,
)  # fmt: skip
TEMPLATES = (
    "{{ messages }}", "{% for m in messages %}{{ m.content }}{% endfor %}", "{{ ''.__class__.__mro__ }}", "{% include '../x' %}",
    "{% for i in range(10**9) %}x{% endfor %}", "{{ '%s' * 99999 }}", "{%", "{{ 1/0 }}", "\0", "\ud800", "{" * 5000,
)  # fmt: skip


def token(chance: random.Random) -> str:
    return chance.choice(TOKENS) + chance.choice(("", "", "a", "b"))


def tokenizer_json(chance: random.Random, size: int = 12) -> dict[str, Any]:
    """A `tokenizer.json`, sound but for tokens that a careless reader stumbles over."""
    words = list(dict.fromkeys(token(chance) for _ in range(size)))
    places: list[Any] = list(range(len(words)))
    if chance.random() < 0.3:  # holes, doubles, and ids that are none
        places[chance.randrange(len(places))] = chance.choice((0, 1, len(words), len(words) + 7, 2**31, 2**63, -1))
    vocab: Any = dict(zip(words, places, strict=True))
    pairs = [(chance.choice(words), chance.choice(words)) for _ in range(chance.randrange(4))]
    model: dict[str, Any] = {
        "type": chance.choice(("BPE", "WordLevel", "WordPiece")),
        "vocab": vocab,
        "unk_token": words[0],
    }
    if model["type"] == "BPE":
        model["merges"] = [chance.choice(([a, b], f"{a} {b}")) for a, b in pairs]
        model["byte_fallback"] = chance.random() < 0.5
    elif chance.random() < 0.3:
        model |= {"type": "Unigram", "vocab": [[word, -float(place)] for place, word in enumerate(words)], "unk_id": 0}
    added = [
        {"id": chance.choice((len(words) + n, n, chance.choice(NUMBERS))), "content": token(chance), "special": chance.random() < 0.7,
         "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        for n in range(chance.randrange(4))
    ]  # fmt: skip
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **parts, "added_tokens": added, "model": model}


def tokenizer_files(chance: random.Random) -> dict[str, bytes]:
    """The files that say how text becomes tokens, with one kind of damage or another."""
    share = chance.choice((0.0, 0.02, 0.1))
    special: dict[str, Any] = {"eos_token": token(chance), "pad_token": {"content": token(chance), "lstrip": False}}
    decoder = {str(n): {"content": token(chance), "special": True} for n in range(chance.randrange(3))}
    plain: dict[str, Any] = {
        "tokenizer.json": tokenizer_json(chance),
        "tokenizer_config.json": {
            **special, "tokenizer_class": chance.choice(("PreTrainedTokenizerFast", "LlamaTokenizer", "../evil", 7)),
            "chat_template": chance.choice(TEMPLATES), "added_tokens_decoder": decoder, "model_max_length": chance.choice(NUMBERS),
            "auto_map": {"AutoTokenizer": ["../evil--x.Y", None]},
        },
        "special_tokens_map.json": {**special, "additional_special_tokens": [token(chance), {"content": token(chance)}]},
        "added_tokens.json": {token(chance): chance.choice(NUMBERS) for _ in range(chance.randrange(3))},
        "vocab.json": {token(chance): n for n in range(4)},
    }  # fmt: skip
    kept = ["tokenizer.json", *(name for name in plain if name != "tokenizer.json" and chance.random() < 0.6)]
    files = {name: as_json(chance, spoil(chance, plain[name], share)) for name in kept if chance.random() < 0.97}
    for name, content in (
        ("merges.txt", b"#version: 0.2\na b\n" + noise(chance, 20)),
        (
            "tokenizer.model",
            sometimes(chance, b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\x08\n\x01a\x15\0\0\x80\xbf", 0.7),
        ),
        ("chat_template.jinja", chance.choice(TEMPLATES).encode("utf-8", "surrogatepass")),
    ):
        if chance.random() < 0.2:
            files[name] = content
    return files
