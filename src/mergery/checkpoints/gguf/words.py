"""A tokenizer in the keys of GGUF: tokens, kinds, merges or scores, and the word for how text is cut before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from mergery.checkpoints.gguf.cutting import NORMALISED, PATTERNS, WHOLE_WORDS, pre_tokenizer
from mergery.checkpoints.gguf.tokens import (
    BYTE,
    BYTE_LEVEL,
    CONTROL,
    NORMAL,
    PIECES,
    ROLES,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from mergery.checkpoints.tokenizer.reading import BYTE_BPE, PIECE_BPE, Tokenizer, components
from mergery.errors import PlanError

PREFERRED = ("gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2", "tekken", "gpt-4o")  # of words that mean the same
PREFIX = "tokenizer.ggml."


def words_of(tokenizer: Tokenizer, rows: int, family: str, *, cutting: str | None = None) -> dict[str, Any]:
    """The keys of a tokenizer for a model with so many rows. `cutting` overrides how text is cut before. Raises PlanError."""
    return _Words(tokenizer, rows, family, cutting).keys()


class _Words:
    def __init__(self, tokenizer: Tokenizer, rows: int, family: str, cutting: str | None) -> None:
        self.tokenizer, self.rows, self.family, self.cutting = tokenizer, rows, family, cutting
        self.model: Mapping[str, Any] = tokenizer.data.get("model", {})

    def refuse(self, why: str, hint: str = "") -> NoReturn:
        raise PlanError("this tokenizer cannot be written as GGUF", why=why, hint=hint)

    def keys(self) -> dict[str, Any]:
        tokenizer = self.tokenizer
        if tokenizer.kind not in (BYTE_BPE, PIECE_BPE) or tokenizer.form == "vocab.txt":
            self.refuse(f"it is {tokenizer.kind}; byte-level BPE and SentencePiece's are written")
        if tokenizer.end > self.rows:
            why = f"it has {tokenizer.end:,} tokens, and the embeddings {self.rows:,} rows"
            self.refuse(why, "name a tokenizer in the recipe: output: {tokenizer: ...} makes the rows fit")
        tokens, kinds = self._tokens()
        byte_level = tokenizer.kind == BYTE_BPE
        found: dict[str, Any] = {"model": BYTE_LEVEL if byte_level else PIECES}
        found["pre"] = self._cutting() if byte_level else "default"
        found |= {"tokens": tokens, "token_type": kinds}
        if byte_level:
            found["merges"] = [f"{left} {right}" for left, right in tokenizer.merges]
        else:
            found["scores"] = self._scores(tokens)
            found["add_space_prefix"] = self._prefix()
        ids = {role: tokenizer.tokens[word] for role, word in tokenizer.special.items() if word in tokenizer.tokens}
        found |= {f"{key}_token_id": ids[role] for role, key in ROLES.items() if role in ids}
        return {f"{PREFIX}{key}": value for key, value in {**found, **self._adds(ids)}.items()}

    def _tokens(self) -> tuple[list[str], list[int]]:
        """Every row's token and kind; rows without a token get a name of their own."""
        tokens = [f"[PAD{number}]" for number in range(self.rows)]
        kinds = [UNUSED] * self.rows
        unknown = self.model.get("unk_token")
        fallback = bool(self.model.get("byte_fallback"))
        for token, number in self.tokenizer.tokens.items():
            tokens[number], kinds[number] = token, NORMAL
            if fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                kinds[number] = BYTE
        for token, entry in self.tokenizer.added.items():
            kinds[entry["id"]] = CONTROL if entry.get("special") else USER_DEFINED
            tokens[entry["id"]] = token
        if isinstance(unknown, str) and unknown in self.tokenizer.tokens and self.tokenizer.kind == PIECE_BPE:
            kinds[self.tokenizer.tokens[unknown]] = UNKNOWN
        return tokens, kinds

    def _cutting(self) -> str:
        """The word for the rule by which text is cut: llama.cpp has the rules, a file only names one."""
        if self.cutting:
            return self.cutting
        whole = bool(self.model.get("ignore_merges"))
        normal = _essence(self.tokenizer.data.get("normalizer"))
        if self.tokenizer.form != "tokenizer.json":
            return "gpt-2"
        rule = _essence(self.tokenizer.data.get("pre_tokenizer"))
        for word in dict.fromkeys((*PREFERRED, *PATTERNS)):
            alike = (word in WHOLE_WORDS) == whole and (word in NORMALISED) == (normal == _essence({"type": "NFC"}))
            if alike and _essence(pre_tokenizer(word)) == rule:
                return word
        return self.refuse(
            "text is cut in a way that is not known here: llama.cpp has a list of rules, and a file names one of them",
            f"if you know its name there, say --pre, such as {', '.join(PREFERRED[:4])}",
        )

    def _scores(self, tokens: list[str]) -> list[float]:
        """SentencePiece's scores from the order of merges: a piece is as good as the first pair that makes it is early.

        That gives the same pieces only where all pairs that make a piece stand together, as they do where merges were made
        from scores. Raises PlanError elsewhere.
        """
        rank: dict[str, int] = {}
        last = ""
        broken: list[str] = []
        for number, (left, right) in enumerate(self.tokenizer.merges):
            piece = left + right
            if piece != last and piece in rank:
                broken.append(piece)
            rank.setdefault(piece, number)
            last = piece
        if broken and not self.family.startswith("gemma"):
            why = f"its merges are in no order that scores could give: those that make {broken[0]!r} stand apart"
            self.refuse(why, "a byte-level tokenizer can be written, and any with the merges of SentencePiece")
        return [float(-rank[token]) if token in rank else 0.0 if len(token) == 1 else -1e6 for token in tokens]

    def _prefix(self) -> bool:
        data = self.tokenizer.data
        found = components(data)
        text = json.dumps([data.get("normalizer"), data.get("pre_tokenizer")])
        return "Prepend" in found or ("Metaspace" in found and '"prepend_scheme": "never"' not in text)

    def _adds(self, ids: Mapping[str, int]) -> dict[str, bool]:
        """Whether texts begin and end with a special token, as the tokenizer's own template says."""
        single = _single(self.tokenizer.data.get("post_processor"))
        first, last = ids.get("bos_token"), ids.get("eos_token")
        named = [entry.get("SpecialToken", {}).get("id") if isinstance(entry, dict) else None for entry in single]
        numbers = [self.tokenizer.tokens.get(str(word)) if word else None for word in named]
        return {
            "add_bos_token": bool(numbers) and first is not None and numbers[0] == first,
            "add_eos_token": bool(numbers) and last is not None and numbers[-1] == last,
        }


def _single(processor: Any) -> list[Any]:
    """What a post-processor makes of one text; empty where it adds nothing."""
    if not isinstance(processor, dict):
        return []
    if isinstance(processor.get("processors"), list):
        return next(filter(None, map(_single, processor["processors"])), [])
    single = processor.get("single")
    return single if isinstance(single, list) else []


def _essence(part: Any) -> Any:
    """What a normaliser or pre-tokeniser does, without what changes no token."""
    if not isinstance(part, dict):
        return None
    inner = part.get("pretokenizers") or part.get("normalizers")
    if isinstance(inner, list):
        found = [each for each in map(_essence, inner) if each is not None]
        return found[0] if len(found) == 1 else found
    return {key: value for key, value in part.items() if key != "trim_offsets"}
