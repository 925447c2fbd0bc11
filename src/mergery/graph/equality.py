"""Whether two nodes are one tensor: by what they are made of, or by their bytes."""

from __future__ import annotations

import numpy as np

from mergery.checkpoints.equality import same_bytes, same_model, stored_name
from mergery.graph.nodes import Gathered, Merged, Node, Stored


def same_base(one: Node, other: Node) -> bool:
    """Whether two nodes are one stored tensor, the same ranges of such, or both zeros. Reads nothing."""
    if isinstance(one, Stored) and isinstance(other, Stored):
        if (one.shape, one.dtype) != (other.shape, other.dtype) or not same_model(one.checkpoint, other.checkpoint):
            return False
        names = (stored_name(each.checkpoint, each.info.name) for each in (one, other))
        return next(names) == next(names)
    if one is other:
        return True
    if not (isinstance(one, Gathered) and isinstance(other, Gathered)):
        return False
    alike = one.shape == other.shape and len(one.sources) == len(other.sources) and same_ranges(one, other)
    return alike and all(same_base(*pair) for pair in zip(one.sources, other.sources, strict=True))


def is_zero(node: Node) -> bool:
    """Whether a node is zeros, whatever is read."""
    return isinstance(node, Gathered) and not node.sources


def same_ranges(one: Gathered, other: Gathered) -> bool:
    """Whether two nodes gather the same ranges, of whatever sources."""
    if one.which is other.which and one.starts is other.starts and one.lengths is other.lengths:
        return True
    pairs = ((one.which, other.which), (one.starts, other.starts), (one.lengths, other.lengths))
    return all(np.array_equal(*pair) for pair in pairs)


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
        return same_ranges(one, other) and _same_rows(one, other)
    return False


def _same_settings(one: Merged, other: Merged) -> bool:
    mine, theirs = one.settings, other.settings
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)


def _same_rows(one: Node, other: Node) -> bool:
    same = one.shape == other.shape and len(one.rows) == len(other.rows)
    return same and all(same_tensor(*pair) for pair in zip(one.rows, other.rows, strict=True))
