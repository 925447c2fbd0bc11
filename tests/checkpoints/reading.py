"""What a reader gives, as bytes that can be compared."""

from __future__ import annotations

import numpy as np
import torch

from mergery.checkpoints import Checkpoint


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
