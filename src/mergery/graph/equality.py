"""Whether two nodes are one tensor."""

from __future__ import annotations

import numpy as np

from mergery.checkpoints.equality import same_bytes
from mergery.graph.nodes import Gathered, Merged, Node, Stored


def same_tensor(one: Node, other: Node) -> bool:
    """Whether two nodes are made in the same way of stored tensors that are equal to the byte, which are read to see it.

    False where it is not certain. A method that draws random numbers draws others under another name.
    """
    if one is other:
        return True
    if isinstance(one, Stored) and isinstance(other, Stored):
        return one.checkpoint is other.checkpoint and same_bytes(one.checkpoint, one.info.name, other.info.name)
    if isinstance(one, Merged) and isinstance(other, Merged):
        alike = one.method is other.method and _same_settings(one, other) and one.models == other.models
        return alike and (one.dtype, one.merge) == (other.dtype, other.merge) and _same_rows(one, other)
    if isinstance(one, Gathered) and isinstance(other, Gathered):
        pairs = ((one.which, other.which), (one.starts, other.starts), (one.lengths, other.lengths))
        return all(np.array_equal(*pair) for pair in pairs) and _same_rows(one, other)
    return False


def _same_settings(one: Merged, other: Merged) -> bool:
    mine, theirs = one.settings, other.settings
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)


def _same_rows(one: Node, other: Node) -> bool:
    same = one.shape == other.shape and len(one.rows) == len(other.rows)
    return same and all(same_tensor(*pair) for pair in zip(one.rows, other.rows, strict=True))
