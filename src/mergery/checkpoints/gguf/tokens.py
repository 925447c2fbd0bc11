"""The tokenizer in a GGUF file's metadata, as the files that transformers reads.

GGUF keeps tokens, their kinds, merges or scores, and a word for how text is cut before; the rules behind that word are those
of the tokenizers of Hugging Face that it stands for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mergery.checkpoints.gguf.cutting import NORMALISED, WHOLE_WORDS, pre_tokenizer
from mergery.checkpoints.gguf.families import Family
from mergery.errors import CheckpointError, Where

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
BYTE_LEVEL, PIECES = "gpt2", "llama"  # as tokenizer.ggml.model names them
SPACE = "▁"
ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "sep_token": "seperator", "pad_token": "padding",
         "mask_token": "mask"}  # fmt: skip
TEMPLATE = "tokenizer.chat_template"


class GgufTokenizer:
    """The tokenizer of a file. `lost` says why there is none that transformers could read; empty where there is one."""

    def __init__(self, metadata: Mapping[str, Any], family: Family, where: str) -> None:
        self.metadata, self.family, self.where = metadata, family, where
        self.model = self.get("model")
        self.lost = self._lost()

    def get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def _lost(self) -> str:
        tokens = self.get("tokens")
        if self.model in (None, "none") or not tokens:
            return "the file has none"
        if not isinstance(tokens, list) or any(type(token) is not str for token in tokens):
            raise self._error("tokenizer.ggml.tokens is not a list of texts")
        for key, kind in (("token_type", int), ("scores", float), ("merges", str)):
            listed = self.get(key, [])
            right = isinstance(listed, list) and all(type(each) is kind for each in listed)
            if not right or (key != "merges" and listed and len(listed) != len(tokens)):
                raise self._error(f"tokenizer.ggml.{key} does not fit the {len(tokens):,} tokens")
        if self.model == BYTE_LEVEL:
            if not self.get("merges"):
                return "the file has no merges"
            word = self.get("pre", "")
            return "" if pre_tokenizer(word) else f"how text is cut before ({word!r:.40}) is not known here"
        if self.model == PIECES:
            return "" if self.get("scores") else "the file has no scores"
        return f"tokenizers of the kind {self.model!r:.40} are not rebuilt"

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(what, where=Where(self.where), hint="convert the model again, or use its safetensors")

    def files(self) -> dict[str, Any]:
        """What makes each file, by its name."""
        if self.lost:
            return {}
        found: dict[str, Any] = {"tokenizer.json": self.tokenizer, "tokenizer_config.json": self.settings}
        if isinstance(self.metadata.get(TEMPLATE), str):
            found["chat_template.jinja"] = lambda: self.metadata[TEMPLATE]
        for key, text in self.metadata.items():
            name = key.removeprefix(f"{TEMPLATE}.")
            if name != key and name.isidentifier() and isinstance(text, str):
                found[f"additional_chat_templates/{name}.jinja"] = lambda text=text: text
        return found

    @property
    def tokens(self) -> list[str]:
        """Tokens by id, spelled as transformers spells them."""
        tokens = self.get("tokens")
        if self.model == PIECES:
            return [SPACE * len(token) if token and not token.strip(" ") else token for token in tokens]
        return tokens

    @property
    def kinds(self) -> Sequence[int]:
        """What each token is: `NORMAL` and so on."""
        return self.get("token_type") or [NORMAL] * len(self.get("tokens"))

    def special(self) -> dict[str, str]:
        """The token of each role."""
        tokens = self.tokens
        found: dict[str, str] = {}
        for role, key in ROLES.items():
            number = self.get(f"{key}_token_id")
            if type(number) is int and 0 <= number < len(tokens):
                found[role] = tokens[number]
        return found

    def added_tokens(self) -> list[dict[str, Any]]:
        """Tokens that text is searched for before all else."""
        special = set(self.special().values())
        return [
            {
                "id": number, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": kind in (CONTROL, UNKNOWN) or token in special,
            }
            for number, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True))
            if kind in (CONTROL, USER_DEFINED) or (kind == UNKNOWN and self.model == PIECES)
        ]  # fmt: skip

    def vocabulary(self) -> dict[str, int]:
        """Ids by token, without the rows that only fill up the embeddings. Of a token that stands twice, the first id."""
        found: dict[str, int] = {}
        for number, (token, kind) in enumerate(zip(self.tokens, self.kinds, strict=True)):
            if not (kind == UNUSED and token.startswith("[PAD")):
                found.setdefault(token, number)
        return found

    @property
    def adds(self) -> dict[str, bool]:
        """Whether a text begins with the token of the beginning, and ends with that of the end."""
        first = self.get("add_bos_token")
        if first is None:
            first = self.model == PIECES or self.get("pre") in WHOLE_WORDS
        return {"bos_token": bool(first), "eos_token": bool(self.get("add_eos_token", False))}

    def tokenizer(self) -> str:
        """The `tokenizer.json`."""
        byte_level = self.model == BYTE_LEVEL
        data = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": self.added_tokens(),
            **(self._byte_level() if byte_level else self._pieces()),
        }  # fmt: skip
        data["post_processor"] = self._post_processor(byte_level)
        return json.dumps(data, ensure_ascii=False)

    def _byte_level(self) -> dict[str, Any]:
        word = self.get("pre", "")
        merges = [merge[:at] + " " + merge[at + 1 :] for merge in self.get("merges") if (at := merge.find(" ", 1)) > 0]
        return {
            "normalizer": {"type": "NFC"} if word in NORMALISED else None,
            "pre_tokenizer": pre_tokenizer(word),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                "ignore_merges": word in WHOLE_WORDS, "vocab": self.vocabulary(), "merges": merges,
            },
        }  # fmt: skip

    def _pieces(self) -> dict[str, Any]:
        vocabulary = self.vocabulary()
        prefix = bool(self.get("add_space_prefix", not self.family.kind.startswith("gemma")))
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        prepend = {"type": "Prepend", "prepend": SPACE}
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
        decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strip] if prefix else [])]
        unknown = next((t for t, kind in zip(self.tokens, self.kinds, strict=True) if kind == UNKNOWN), None)
        return {
            "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]} if prefix else replace,
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": BYTE in self.kinds, "ignore_merges": False,
                "vocab": vocabulary, "merges": self._merges(vocabulary),
            },
        }  # fmt: skip

    def _merges(self, vocabulary: Mapping[str, int]) -> list[list[str]]:
        """The pairs of pieces that make a piece, the best first: what SentencePiece finds by scores, BPE finds by rank.

        Gemma's scores say nothing of the order, its ids do.
        """
        scores = self.get("scores")
        by_id = self.family.kind.startswith("gemma")
        found: list[tuple[float, int, int, str, str]] = []
        for piece, number in vocabulary.items():
            if self.kinds[number] != NORMAL and not (by_id and self.kinds[number] == USER_DEFINED):
                continue
            rank = number if by_id else -scores[number]
            for at in range(1, len(piece)):
                left, right = vocabulary.get(piece[:at]), vocabulary.get(piece[at:])
                if left is not None and right is not None:
                    found.append((rank, left, right, piece[:at], piece[at:]))
        return [[left, right] for _, _, _, left, right in sorted(found)]

    def _post_processor(self, byte_level: bool) -> dict[str, Any] | None:
        special, adds, tokens = self.special(), self.adds, self.vocabulary()
        first, last = (
            [special[role]] if adds[role] and special.get(role) in tokens else [] for role in ("bos_token", "eos_token")
        )
        plain = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
        if not first and not last:
            return plain if byte_level else None

        def text(word: str, kind: int) -> list[dict[str, Any]]:
            named = [{"SpecialToken": {"id": token, "type_id": kind}} for token in first]
            ending = [{"SpecialToken": {"id": token, "type_id": kind}} for token in last]
            return [*named, {"Sequence": {"id": word, "type_id": kind}}, *ending]

        template = {
            "type": "TemplateProcessing", "single": text("A", 0), "pair": [*text("A", 0), *text("B", 1)],
            "special_tokens": {t: {"id": t, "ids": [tokens[t]], "tokens": [t]} for t in dict.fromkeys(first + last)},
        }  # fmt: skip
        return {"type": "Sequence", "processors": [plain, template]} if byte_level else template

    def settings(self) -> str:
        """The `tokenizer_config.json`."""
        adds = self.adds
        length = self.metadata.get(f"{self.metadata.get('general.architecture')}.context_length")
        data: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast", **self.special(), "clean_up_tokenization_spaces": False,
            "add_bos_token": adds["bos_token"], "add_eos_token": adds["eos_token"],
            **({"model_max_length": length} if type(length) is int else {}),
        }  # fmt: skip
        return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
