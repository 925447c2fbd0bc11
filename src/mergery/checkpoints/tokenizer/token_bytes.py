"""What a token stands for: the bytes of its text, in whichever alphabet its tokenizer spells them; and how numbers are cut."""

from __future__ import annotations

import json
import re
from functools import cache

from mergery.checkpoints.tokenizer.reading import BYTE_BPE, PIECE_BPE, UNIGRAM, WORDPIECE, Tokenizer

SPACE = "\u2581"  # SentencePiece's mark of a space
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ASCII_DIGITS = re.compile(r"[0-9]+")

ALONE, THREES, RUNS = "digit by digit", "groups of three digits", "runs of digits"


@cache
def byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level tokenizers spell bytes (the table of GPT-2): printable Latin-1 bytes stand for
    themselves, the others, in order, for the characters from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def meaning(token: str, tokenizer: Tokenizer) -> tuple[bool, bytes]:
    """Whether a token is an added one, and the bytes of text that it stands for."""
    if token in tokenizer.added:
        return True, token.encode()
    if tokenizer.kind == BYTE_BPE:
        alphabet = byte_alphabet()
        if all(letter in alphabet for letter in token):
            return False, bytes(alphabet[letter] for letter in token)
    if tokenizer.kind in (PIECE_BPE, UNIGRAM):
        byte = _BYTE.fullmatch(token)
        return False, bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()
    if tokenizer.kind == WORDPIECE:
        return False, token[2:].encode() if token.startswith("##") else b" " + token.encode()
    return False, token.encode()


def digits(tokenizer: Tokenizer) -> str:
    """How a tokenizer cuts numbers: told by its pre-tokeniser or, where that says nothing, by its tokens."""
    text = json.dumps(tokenizer.data.get("pre_tokenizer"), ensure_ascii=False)
    if re.search(r"(\\\\p\{N\}|\\\\d|\[0-9\])\{1,3\}", text):
        return THREES
    if re.search(r'"individual_digits": true|["|(](\\\\p\{N\}|\\\\d|\[0-9\])["|)]', text):
        return ALONE
    longest = 0
    for token in tokenizer.tokens:
        word = token.lstrip("\u2581\u0120#")
        if len(word) > longest and _ASCII_DIGITS.fullmatch(word):
            longest = len(word)
            if longest > 3:
                return RUNS
    return ALONE if longest <= 1 else RUNS
