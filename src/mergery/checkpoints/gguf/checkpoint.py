"""A GGUF file, or the files that one was split into, as a checkpoint with the names and the config of transformers."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import Contents, TensorInfo
from mergery.checkpoints.byte_files import LocalFile
from mergery.checkpoints.config import Config
from mergery.checkpoints.gguf.config import config_of, keys_unread
from mergery.checkpoints.gguf.families import ROTARY, Family, architectures, family_of_architecture
from mergery.checkpoints.gguf.file import GgufFile, type_name
from mergery.checkpoints.gguf.metadata import Metadata
from mergery.checkpoints.gguf.rotation import FACTORS, LONG, SHORT
from mergery.checkpoints.gguf.tensors import Piece, changed, pieces_of, span
from mergery.checkpoints.gguf.tokens import GgufTokenizer
from mergery.checkpoints.quantised.numbers import lost_by
from mergery.checkpoints.stored import StoredCheckpoint
from mergery.checkpoints.weights import byte_view, join
from mergery.dtypes import F32
from mergery.errors import CheckpointError, Where, listed

if TYPE_CHECKING:
    import numpy as np

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf")
FACTORS_MOST = 1 << 16  # elements of a tensor that is a list of the config
OF_CONFIG = (FACTORS, LONG, SHORT)  # tensors that are lists of the config, not weights
AGAIN = "download the file again, or use the model's safetensors"
PLAIN = ("F32", "F16", "BF16", "F64")


class GgufCheckpoint(StoredCheckpoint):
    """A model in GGUF. Blocks are decoded to float32 as they are read; other tensors are read as they are.

    Config and tokenizer are made of the metadata. Raises CheckpointError, also for an architecture that is not known.
    """

    def __init__(self, path: Path, label: str | None = None) -> None:
        self.label, self.location = label or path.name, str(path)
        require_gguf(self.location)
        files = {each.name: GgufFile(LocalFile(each)) for each in _parts(path)}
        first = next(iter(files.values()))
        self._weights = join(files)
        self.stored_types = Counter(type_name(raw.kind) for file in files.values() for raw in file.raw.values())
        self._matrices = Counter(
            type_name(raw.kind) for file in files.values() for raw in file.raw.values() if len(raw.shape) > 1
        )
        self.family = self._family(first.metadata)
        metadata = Metadata(first.metadata, self.family.architecture, self.location)
        self._config = Config(config_of(self.family, metadata, self._embedded(), self._values, self._dtype()))
        self._pieces, unknown = self._find_pieces()
        self._tensors = {name: piece.info for name, piece in self._pieces.items()}
        tokenizer = GgufTokenizer(first.metadata, self.family, self.location)
        self._texts = {**tokenizer.files(), **self._generation(first.metadata)}
        lost = [f"the tokenizer ({tokenizer.lost})"] if tokenizer.lost else []
        self._contents = Contents(tuple(sorted(self._texts)), (*lost, *keys_unread(self.family, metadata)))
        self._refuse_unknown(unknown)

    def _family(self, metadata: Mapping[str, Any]) -> Family:
        word = metadata.get("general.architecture")
        kind = metadata.get("general.type", "model")
        if not isinstance(word, str) or kind != "model":
            what = (
                "this GGUF file is no language model" if kind != "model" else "this GGUF file does not say what it is"
            )
            why = f"general.type is {kind!r:.40}" if kind != "model" else "its metadata lacks general.architecture"
            raise CheckpointError(
                what, where=Where(self.location), why=why, hint="name the file with the model's weights"
            )
        window = bool(metadata.get(f"{word}.attention.sliding_window"))
        family = family_of_architecture(word, experts=bool(metadata.get(f"{word}.expert_count")), window=window)
        if family is None:
            why = f"these are: {', '.join(architectures())}"
            hint = "use the model's safetensors, from which the file was made"
            what = f"GGUF files of the architecture {word!r:.40} are not read"
            raise CheckpointError(what, where=Where(self.location), why=why, hint=hint)
        return family

    def _embedded(self) -> Mapping[str, TensorInfo]:
        tensors = self._weights.tensors
        if len(getattr(tensors.get("token_embd.weight"), "shape", ())) != 2:
            why = "token_embd.weight is no matrix" if "token_embd.weight" in tensors else "token_embd.weight is missing"
            hint = "name the model's first file, or download it again"
            raise CheckpointError("this GGUF file has no embeddings", where=Where(self.location), why=why, hint=hint)
        return tensors

    def _dtype(self) -> str:
        """That in which the weights are best kept: what the file has, where it has plain numbers, else float32."""
        most = max(self._matrices, key=lambda kind: self._matrices[kind]) if self._matrices else "F32"
        return {"F16": "float16", "BF16": "bfloat16"}.get(most, "float32")

    def _find_pieces(self) -> tuple[dict[str, Piece], list[str]]:
        heads = self._config.get("num_attention_heads", 1)
        of = {"attn_q": heads, "attn_k": self._config.get("num_key_value_heads", heads)}
        tensors = {name: info for name, info in self._weights.tensors.items() if name not in OF_CONFIG}
        pieces, unknown = pieces_of(self.family, tensors, of)
        for piece in pieces:
            rows = piece.info.shape[0] if piece.info.shape else 0
            whole = piece.info.elements and rows and piece.heads > 0 and rows % (2 * piece.heads) == 0
            if piece.change == ROTARY and not whole:
                why = f"{piece.source!r} has {rows} rows, and its model {piece.heads} heads"
                raise CheckpointError(
                    "the rows of a tensor are no whole heads", where=Where(self.location), why=why, hint=AGAIN
                )
        return {piece.info.name: piece for piece in pieces}, unknown

    def _refuse_unknown(self, unknown: list[str]) -> None:
        if unknown:
            why = f"a {self.family.kind} of transformers has no place for {listed(unknown)}"
            hint = "use the model's safetensors, from which the file was made"
            raise CheckpointError(
                "this GGUF file holds tensors that are not known", where=Where(self.location), why=why, hint=hint
            )

    def _values(self, name: str) -> list[float]:
        """A small tensor whole."""
        info = self._weights.tensors[name]
        if info.elements > FACTORS_MOST or info.dtype != F32:
            why = f"it holds {info.elements:,} numbers of {info.dtype}"
            raise CheckpointError(f"{name} is no list of a config", where=Where(self.location), why=why, hint=AGAIN)
        return [float(each) for each in self._floats(name, 0, info.elements)]

    def _generation(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """A generation config, where more than one token ends a text."""
        ends = [metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
        known = list(dict.fromkeys(each for each in ends if type(each) is int))
        if len(known) < 2:
            return {}
        text = json.dumps({"eos_token_id": known}, indent=2) + "\n"
        return {"generation_config.json": lambda: text}

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def decoded(self) -> str:
        blocks = [kind for kind, _ in self.stored_types.most_common() if kind not in PLAIN]
        return f"GGUF, {', '.join(blocks)}" if blocks else ""

    @property
    def lost(self) -> float:
        counts = [(count, kind) for kind, count in self.stored_types.items() if kind not in PLAIN]
        bits = re.search(r"\d", max(counts)[1]) if counts else None
        return lost_by(int(bits[0])) if bits else 0.0

    def _fetch(self, name: str) -> bytes:
        return self._texts[name]().encode()

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        piece = self._pieces.get(name)
        if piece is None or not piece.computed:
            offset = piece.start if piece else 0
            if piece:
                byte_view(piece.info, start, stop, into)
            self._weights.read(piece.source if piece else name, offset + start, offset + stop, into)
            return
        import numpy as np

        if not len(byte_view(piece.info, start, stop, into)):
            return
        low, high = span(piece, start, stop)
        if piece.info.dtype == F32:
            values = self._floats(piece.source, low, high)
        else:
            values = np.empty((high - low) * piece.info.dtype.itemsize, np.uint8)
            self._weights.read(piece.source, low, high, values)
            values = values.view(f"u{piece.info.dtype.itemsize}")
        into.reshape(-1)[:] = np.ascontiguousarray(changed(piece, values)[start - low : stop - low]).view(np.uint8)

    def _floats(self, source: str, start: int, stop: int) -> np.ndarray:
        """Elements of a tensor of the file, as float32."""
        import numpy as np

        info = self._weights.tensors[source]
        raw = np.empty((stop - start) * info.dtype.itemsize, np.uint8)
        self._weights.read(source, start, stop, raw)
        if info.dtype.name == "BF16":
            return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return raw.view({"F16": np.float16, "F64": np.float64}.get(info.dtype.name, np.float32)).astype(np.float32)

    def fingerprint(self) -> dict[str, Any]:
        return super().fingerprint() | {"architecture": self.family.architecture}


def require_gguf(where: str) -> None:
    """Refuse where the package `gguf` is missing."""
    try:
        import gguf  # noqa: F401
    except ImportError:
        hint = "pip install gguf"
        raise CheckpointError(
            "GGUF files are read with the package gguf", where=Where(where), why="it is not here", hint=hint
        ) from None


def _parts(path: Path) -> list[Path]:
    """The file, or all the files that one was split into, in their order. Any of them may be named."""
    match = _SPLIT.fullmatch(path.name)
    if match is None:
        return [path]
    names = [f"{match['stem']}-{number:05d}-of-{match['total']}.gguf" for number in range(1, int(match["total"]) + 1)]
    missing = [name for name in names if not path.with_name(name).exists()]
    if missing or not names:
        what = f"{len(missing)} of {len(names)} files of this split GGUF are missing: {', '.join(missing[:3])}"
        raise CheckpointError(what, where=Where(str(path)), hint="download them into the same folder")
    return [path.with_name(name) for name in names]
