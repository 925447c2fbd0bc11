"""How a byte-level tokenizer cuts text before it merges: what the words of `tokenizer.ggml.pre` stand for.

The patterns are those of the tokenizers of Hugging Face whose words they are.
"""

from __future__ import annotations

from typing import Any

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_MARKS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_MARKS}*{_LOWER}+|{_MARKS}+{_LOWER}*|\p{{N}}|{_REST}"
_GPT4O = rf"{_MARKS}*{_LOWER}+{_SHORT}|{_MARKS}+{_LOWER}*{_SHORT}|\p{{N}}{{1,3}}|{_REST}"

WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2")
"""Words of tokenizers that take a whole word which is a token before they merge, and begin a text with a token."""
NORMALISED = ("qwen2", "deepseek-r1-qwen", "megrez")  # to NFC, before all else

PATTERNS = {
    **dict.fromkeys((*WHOLE_WORDS, "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(NORMALISED, _QWEN2),
    "tekken": _TEKKEN,
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _GPT4O),
}
DIGITS = (
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
    "minerva-7b",
)  # one by one, then as GPT-2 does
AS_GPT2 = ("gpt-2", "olmo", "mpt", "jais", "phi-2", "trillion", "granite-docling")


def pre_tokenizer(word: str) -> dict[str, Any] | None:
    """The `pre_tokenizer` of a tokenizer.json for a word; None for one that is not known here."""
    whole = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if word in AS_GPT2:
        return whole
    if word in DIGITS:
        return {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, whole]}
    if word in PATTERNS:
        split = {"type": "Split", "pattern": {"Regex": PATTERNS[word]}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, {**whole, "use_regex": False}]}
    return None
