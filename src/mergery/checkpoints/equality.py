"""Whether two checkpoints are one model, and whether two tensors of one are equal to the byte."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.formats.packed import PackedCheckpoint
from mergery.checkpoints.memory import MEMORY
from mergery.checkpoints.renamed import RenamedCheckpoint

BLOCK = 1 << 21  # elements that are compared at once


def same_model(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether two checkpoints are of the same files, however their place is written. False where it is not certain."""
    if one is other:
        return True
    tasks = [each.task if isinstance(each, PackedCheckpoint) else None for each in (one, other)]
    return MEMORY != _place(one.location) == _place(other.location) and tasks[0] == tasks[1]


def stored_name(checkpoint: Checkpoint, name: str) -> str:
    """What a tensor is called in the files, whatever a recipe calls it."""
    while isinstance(checkpoint, RenamedCheckpoint):
        name, checkpoint = checkpoint.names.get(name, name), checkpoint.stored
    return name


@cache
def _place(location: str) -> str:
    return os.path.realpath(location) if Path(location).exists() else location


def same_bytes(checkpoint: Checkpoint, one: str, other: str) -> bool:
    """Whether two tensors are equal to the byte. Reads nothing where headers or the file itself tell; else block by block, up
    to the first that differs.
    """
    import numpy as np

    first, second = checkpoint.tensors[one], checkpoint.tensors[other]
    if one == other or checkpoint.aliases.get(one, one) == checkpoint.aliases.get(other, other):
        return True
    if (first.shape, first.dtype) != (second.shape, second.dtype):
        return False
    for start in range(0, first.elements, BLOCK):
        stop = min(start + BLOCK, first.elements)
        blocks = [np.empty((stop - start) * first.dtype.bits // 8, np.uint8) for _ in range(2)]
        for name, block in zip((one, other), blocks, strict=True):
            checkpoint.glance(name, start, stop, block)
        if not np.array_equal(blocks[0], blocks[1]):
            return False
    return True
