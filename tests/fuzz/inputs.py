"""Hostile inputs from seeds: valid files with damage that knows their structure, and plain noise.

`make(seed)` gives the same `Case` for the same seed on every machine. Nothing here looks at how Mergery reads files.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fuzz.adapters import adapter, imatrix
from tests.fuzz.damage import as_json, spoil
from tests.fuzz.folders import CONFIG, folder, merged, tokenizer
from tests.fuzz.llama_files import gguf_file
from tests.fuzz.recipes import mergekit, native, recipe_text
from tests.fuzz.weights import index_files, safetensors_file, torch_file


@dataclass(frozen=True)
class Case:
    """One input: what it is fed to, and its files by name."""

    kind: str
    files: dict[str, bytes]

    def dump(self) -> str:
        """As JSON, for a corpus: text where it is text, else base64."""
        files = {name: _readable(content) for name, content in self.files.items()}
        return json.dumps({"kind": self.kind, "files": files}, indent=1) + "\n"

    @classmethod
    def load(cls, text: str) -> Case:
        """The case that `dump` wrote."""
        data = json.loads(text)
        files = {
            name: content.encode() if isinstance(content, str) else base64.b64decode(content["base64"])
            for name, content in data["files"].items()
        }
        return cls(data["kind"], files)


def _readable(content: bytes) -> Any:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(content).decode()}


def make(seed: int, kind: str | None = None) -> Case:
    """The input of a seed."""
    chance = random.Random(seed)
    kinds, weights = zip(*((name, weight) for name, (weight, _) in KINDS.items()), strict=True)
    kind = kind or chance.choices(kinds, weights)[0]
    return Case(kind, KINDS[kind][1](chance))


KINDS: dict[str, tuple[int, Callable[[random.Random], dict[str, bytes]]]] = {
    "safetensors": (300, lambda chance: {"x.safetensors": safetensors_file(chance)}),
    "torch": (250, lambda chance: {"x.bin": torch_file(chance)}),
    "index": (120, index_files),
    "config": (60, lambda chance: {"config.json": as_json(chance, spoil(chance, CONFIG, chance.choice((0.05, 0.3))))}),
    "recipe": (130, lambda chance: {"recipe.yaml": recipe_text(chance, native)}),
    "mergekit": (130, lambda chance: {"recipe.yaml": recipe_text(chance, mergekit)}),
    "folder": (15, folder),
    "merged": (6, merged),
    "tokenizer": (12, tokenizer),
    "adapter": (60, adapter),
    "imatrix": (30, imatrix),
    "gguf": (120, lambda chance: {"x.gguf": gguf_file(chance)}),
}
