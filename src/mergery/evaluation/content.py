"""What tells a model, or a tokenizer, apart from any other: hashes of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.engine.workspace import windows
from mergery.evaluation.task import digest

if TYPE_CHECKING:
    from mergery.checkpoints import Checkpoint

READ = 1 << 22  # elements at once


def content_of(checkpoint: Checkpoint) -> Any:
    """What tells a model apart from any other: hashes of weights, config and the files beside them."""
    if isinstance(checkpoint, AdaptedCheckpoint):
        return [checkpoint.rounding, *map(content_of, (checkpoint.base, *checkpoint.adapters))]
    fingerprint = checkpoint.fingerprint()
    if "commit" in fingerprint:  # of the hub, whose weights may not be here yet
        return fingerprint
    hashed = getattr(checkpoint, "hash_contents", None)
    if hashed is not None:
        files = [name for name in checkpoint.files if name != "README.md"]
        return [hashed(), digest(checkpoint.config.plain()), [[name, checkpoint.file(name).hex()] for name in files]]
    whole = hashlib.sha256()
    for name, info in checkpoint.tensors.items():
        whole.update(f"{name!r}{info.shape}{info.dtype.name}".encode())
        for start, stop in windows(info.elements, READ):
            data = np.empty((stop - start) * info.dtype.bits // 8, np.uint8)
            checkpoint.read(name, start, stop, data)
            whole.update(data.data)
    return whole.hexdigest()


def state_hash(state: Mapping[str, Any]) -> str:
    return content_of(MemoryCheckpoint(state))


def file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tokenizer_mark(given: Any) -> Any:
    """What tells a tokenizer that was given apart from another."""
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        return [[entry.name, file_hash(entry)] for entry in sorted(Path(given).glob("*token*")) if entry.is_file()]
    state = given.backend_tokenizer.to_str() if hasattr(given, "backend_tokenizer") else repr(given)
    return digest([state, str(getattr(given, "chat_template", None)), str(given.special_tokens_map)])
