"""What opening and reading give: an error, or bytes that can be compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mergery.checkpoints import Checkpoint, open_checkpoint
from mergery.errors import CheckpointError


def read_bytes(checkpoint: Checkpoint, name: str, start: int = 0, stop: int | None = None) -> bytes:
    """The elements of a tensor as they are stored."""
    info = checkpoint.tensors[name]
    stop = info.elements if stop is None else stop
    into = np.full((stop - start) * info.dtype.bits // 8, 0xA5, np.uint8)
    checkpoint.read(name, start, stop, into)
    return into.tobytes()


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    """What a reader should give for a tensor: its elements in row-major order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def message(path: Path) -> str:
    """The error with which a file is refused, which names the file first."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")
