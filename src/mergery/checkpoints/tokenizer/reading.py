"""Tokenizers from files alone: tokens and their ids, kind, merges, added tokens, special tokens, chat template.

Neither transformers nor the tokenizers library is loaded. Files are taken as they come from strangers: whatever is wrong
with one is a `CheckpointError`, and time and memory grow with the file's size only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.file_kinds import is_tokenizer_file
from mergery.checkpoints.json_files import parse_object
from mergery.errors import CheckpointError, Where

LARGEST = 1 << 28  # bytes of one file
MOST_TOKENS = 1 << 24
LARGEST_ID = 1 << 31
BYTE_BPE, PIECE_BPE, PLAIN_BPE = "byte-level BPE", "SentencePiece-style BPE", "BPE"
UNIGRAM, WORDPIECE, WORDS = "unigram", "WordPiece", "words"
OPAQUE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tekken.json")  # kept, but not read here
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """What a model's tokenizer files say. `tokens` holds the added ones too."""

    label: str  # what messages call its model
    kind: str
    tokens: Mapping[str, int]
    added: Mapping[str, Mapping[str, Any]]  # by content: id, special, normalized, lstrip, rstrip, single_word
    merges: tuple[tuple[str, str], ...]
    scores: Mapping[str, float]  # of a unigram model
    data: Mapping[str, Any]  # tokenizer.json; {"model": ...} where it was read from older files
    settings: Mapping[str, Any]  # tokenizer_config.json
    special: Mapping[str, str]  # bos_token and the like, by role
    form: str  # the file that holds the vocabulary: tokenizer.json, vocab.json or vocab.txt
    digest: str  # of all files that it was read from

    @property
    def end(self) -> int:
        """One more than the largest id."""
        return max(self.tokens.values(), default=-1) + 1


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether a model has files of a tokenizer, whether or not they can be read here."""
    beside = ("chat_template", "additional_chat_templates", "special_tokens_map", "added_tokens")
    return any(is_tokenizer_file(name) and not name.startswith(beside) for name in checkpoint.files)


def read_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """The tokenizer of a model; None where the model has none. Raises CheckpointError."""
    names = set(checkpoint.files)
    form = next((name for name in ("tokenizer.json", "vocab.json", "vocab.txt") if name in names), None)
    if form is None or (form == "vocab.json" and "merges.txt" not in names):
        opaque = [name for name in (*OPAQUE, "vocab.json") if name in names]
        if not opaque:
            return None
        raise CheckpointError(
            f"the tokenizer in {opaque[0]} cannot be read",
            where=Where(f"{checkpoint.label}/{opaque[0]}"),
            why="tokens are read from tokenizer.json, from vocab.json with merges.txt, or from vocab.txt",
            hint="load it with transformers' AutoTokenizer and call save_pretrained, which writes tokenizer.json",
        )
    wanted = [form, *(["merges.txt"] if form == "vocab.json" else []), *(name for name in SETTINGS if name in names)]
    texts = {name: checkpoint.file(name) for name in wanted}
    return _TokenizerReader(checkpoint.label, form, texts).read()


def tokenizer_in(content: bytes, label: str) -> Tokenizer:
    """The tokenizer that the content of a tokenizer.json describes, alone. Raises CheckpointError."""
    return _TokenizerReader(label, "tokenizer.json", {"tokenizer.json": content}).read()


def fingerprint(checkpoint: Checkpoint) -> str:
    """A digest of the files that a tokenizer is read from; equal for equal tokenizers. Empty where there are none."""
    digest = hashlib.sha256()
    names = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", *OPAQUE)
    found = [name for name in names if name in checkpoint.files]
    for name in found:
        digest.update(f"{name}\0".encode() + hashlib.sha256(checkpoint.file(name)).digest())
    return digest.hexdigest() if found else ""


class _TokenizerReader:
    """Reads one model's tokenizer files."""

    def __init__(self, label: str, form: str, texts: Mapping[str, bytes]) -> None:
        self.label, self.form, self.texts = label, form, texts
        for name, text in texts.items():
            if len(text) > LARGEST:
                self.fail(name, "too large for a tokenizer", f"{len(text):,} bytes")

    def fail(self, file: str, what: str, why: str = "") -> NoReturn:
        hint = "mend the file, or download the model again"
        raise CheckpointError(what, where=Where(f"{self.label}/{file}"), why=why, hint=hint)

    def read(self) -> Tokenizer:
        settings = self.object("tokenizer_config.json")
        if self.form == "tokenizer.json":
            data = self.object(self.form)
        else:
            data = {"model": self.older_model()}
        model = data.get("model")
        if not isinstance(model, dict):
            self.fail(self.form, "the tokenizer has no model", "`model` should be an object")
        kind = self.kind(data, model)
        tokens, scores = self.vocabulary(model)
        added = self.added(data, settings)
        tokens = tokens | {content: entry["id"] for content, entry in added.items()}
        if len(tokens) > MOST_TOKENS:
            self.fail(self.form, "too many tokens", f"{len(tokens):,}")
        digest = hashlib.sha256()
        for name, text in self.texts.items():
            digest.update(f"{name}\0".encode() + hashlib.sha256(text).digest())
        merges = tuple(self.merges(model)) if "BPE" in kind else ()
        special = self.special(settings)
        return Tokenizer(
            self.label, kind, tokens, added, merges, scores, data, settings, special, self.form, digest.hexdigest()
        )

    def object(self, name: str) -> dict[str, Any]:
        return parse_object(self.texts[name], f"{self.label}/{name}") if name in self.texts else {}

    def text(self, name: str) -> str:
        try:
            return self.texts[name].decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(name, "this file is not valid UTF-8", error.reason)

    def older_model(self) -> dict[str, Any]:
        """The model of `vocab.json` with `merges.txt`, or of BERT's `vocab.txt`."""
        if self.form == "vocab.txt":
            words = self.text(self.form).split("\n")
            words = words[:-1] if words and not words[-1] else words
            return {"type": "WordPiece", "vocab": {word.rstrip("\r"): i for i, word in enumerate(words)}}
        lines = self.text("merges.txt").split("\n")
        merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
        return {"type": "BPE", "vocab": self.object("vocab.json"), "merges": merges}

    def kind(self, data: Mapping[str, Any], model: Mapping[str, Any]) -> str:
        word = model.get("type")
        if word is None:  # as old files have it
            word = "BPE" if "merges" in model else "Unigram" if isinstance(model.get("vocab"), list) else "WordPiece"
        if word == "BPE":
            found = components(data)
            if "ByteLevel" in found or self.form == "vocab.json":
                return BYTE_BPE
            return PIECE_BPE if model.get("byte_fallback") or "Metaspace" in found or "Replace" in found else PLAIN_BPE
        kinds = {"Unigram": UNIGRAM, "WordPiece": WORDPIECE, "WordLevel": WORDS}
        if not isinstance(word, str) or word not in kinds:
            self.fail(self.form, f"a tokenizer of the kind {word!r:.60} cannot be read")
        return kinds[word]

    def vocabulary(self, model: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, float]]:
        vocab = model.get("vocab")
        if isinstance(vocab, list):
            scores: dict[str, float] = {}
            tokens: dict[str, int] = {}
            for index, entry in enumerate(vocab):
                if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and number(entry[1])):
                    self.fail(self.form, f"piece {index} is {entry!r:.60}", "it should be a text and its score")
                tokens[entry[0]], scores[entry[0]] = index, float(entry[1])
            return tokens, scores
        if not isinstance(vocab, dict):
            self.fail(self.form, "the tokenizer has no vocabulary", "`vocab` should map tokens to ids")
        for token, index in vocab.items():
            if not whole(index):
                self.fail(
                    self.form, f"the id of {token!r:.60} is {index!r:.60}", "it should be a whole number from zero"
                )
        return dict(vocab), {}

    def merges(self, model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        merges = model.get("merges", [])
        if not isinstance(merges, list):
            self.fail(self.form, "`merges` is not a list")
        for entry in merges:
            pair = entry.split(" ") if isinstance(entry, str) else entry
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
                self.fail(self.form, f"the merge {entry!r:.60} cannot be read", "it should be two tokens")
            yield pair[0], pair[1]

    def added(self, data: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Added tokens of tokenizer.json, then those that only the settings or `added_tokens.json` know."""
        result: dict[str, dict[str, Any]] = {}

        def add(file: str, entry: Any) -> None:
            if not (isinstance(entry, dict) and isinstance(entry.get("content"), str) and whole(entry.get("id"))):
                self.fail(file, f"the added token {entry!r:.80} cannot be read", "it should have an id and a content")
            result.setdefault(
                entry["content"], {**DEFAULTS, **{key: entry[key] for key in ("id", *DEFAULTS) if key in entry}}
            )

        listed = data.get("added_tokens") or []
        if not isinstance(listed, list):
            self.fail(self.form, "`added_tokens` is not a list")
        for entry in listed:
            add(self.form, entry)
        decoder = settings.get("added_tokens_decoder") or {}
        if not isinstance(decoder, dict):
            self.fail("tokenizer_config.json", "`added_tokens_decoder` is not an object")
        for key, entry in decoder.items():
            index = int(key) if key.isascii() and key.isdigit() and len(key) < 11 else key
            add("tokenizer_config.json", {**entry, "id": index} if isinstance(entry, dict) else entry)
        for content, index in self.object("added_tokens.json").items():
            add("added_tokens.json", {"content": content, "id": index})
        return {content: {"content": content, **entry} for content, entry in result.items()}

    def special(self, settings: Mapping[str, Any]) -> dict[str, str]:
        result: dict[str, str] = {}
        for source in (settings, self.object("special_tokens_map.json")):
            for role in ROLES:
                word = source.get(role)
                word = word.get("content") if isinstance(word, dict) else word
                if isinstance(word, str):
                    result.setdefault(role, word)
        return result


DEFAULTS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}


def whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST_ID


def number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300


def components(data: Mapping[str, Any]) -> set[str]:
    """The types of all normalisers, pre-tokenisers and decoders of a tokenizer.json."""
    found: set[str] = set()
    waiting = [data.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get("type"), str):
                found.add(item["type"])
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return found
