"""Which changes of coordinates a model's family does not see."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mergery.architecture.spaces import Attention, Spaces
from mergery.views.transforms.mixing import SoftMap
from mergery.views.transforms.transform import Heads, Transform

CLOSE = 1e-9  # of matrices of queries and keys that must be of a form, relative to their largest number


def why_illegal(transform: Transform, spaces: Spaces) -> str:
    """Why a transform would change what a model computes, or a soft map does not fit; empty where it does not."""
    return next(_reasons(transform, spaces), "")


def _reasons(transform: Transform, spaces: Spaces) -> Iterator[str]:
    if transform.rotation is not None:
        yield from _of_rotation(transform.rotation, spaces)
    for name, units in transform.units.items():
        space = spaces.sizes.get(name)
        if space is None:
            yield f"it has no space {name!r}"
        elif name == "residual" and spaces.fixed and not units.is_identity:
            yield spaces.fixed
        elif sorted(units.order.tolist()) != list(range(space.size)):
            yield f"{name}.order is no order of {space.size} places"
        elif units.signs is not None and not space.signs and np.any(units.signs < 0):
            what = "the mean that its norms take off" if name == "residual" else "the activation"
            yield f"a sign of {name} is seen by {what}"
        elif units.signs is not None and not np.all(np.abs(units.signs) == 1.0):
            yield f"{name}.signs are not all 1 or -1"
    for name, soft in transform.maps.items():
        yield from _of_map(name, soft, spaces)
    for layer, heads in transform.heads.items():
        attention = spaces.attention.get(layer)
        if attention is None:
            yield f"the heads of layer {layer} are not known"
        else:
            yield from _of_heads(layer, heads, attention)


def _of_rotation(rotation: np.ndarray, spaces: Spaces) -> Iterator[str]:
    size = spaces.sizes["residual"].size
    if spaces.fixed:
        yield spaces.fixed
    elif not spaces.before:
        yield spaces.seen
    elif rotation.shape != (size, size) or np.abs(rotation @ rotation.T - np.eye(len(rotation))).max() > 1e-6:
        yield f"the rotation is no orthogonal matrix of {size} channels"
    elif spaces.norm == "layer" and np.abs(rotation.sum(1) - 1.0).max() > 1e-6:
        yield "its norms take off the mean of all channels, which the rotation moves"


def _of_map(name: str, soft: SoftMap, spaces: Spaces) -> Iterator[str]:
    """A soft map may change what is computed; it must fit."""
    space = spaces.sizes.get(name)
    fused = any(
        piece.part is not None and any(axis is not None and axis.space == name for axis in piece.axes)
        for piece in spaces.pieces
    )
    new, own = soft.plan.shape
    if space is None:
        yield f"it has no space {name!r}"
    elif space.size % own:
        yield f"the map of {name} is of {own} units, and it has {space.size}"
    elif name == "residual" and spaces.fixed:
        yield spaces.fixed
    elif fused and new != own:
        yield f"{name} would get another width, and is a part of fused tensors"
    elif not np.all(np.isfinite(soft.plan)) or not np.all(np.abs(soft.plan).sum(0) > 0):
        yield f"units of {name} flow nowhere"


def _of_heads(layer: int, heads: Heads, own: Attention) -> Iterator[str]:
    place = f"layers.{layer}.heads"
    if sorted(heads.groups.tolist()) != list(range(own.keys)) or sorted(heads.queries.tolist()) != list(
        range(own.queries)
    ):
        yield f"{place} is no order of {own.keys} key heads and {own.queries} query heads"
        return
    moved = not np.array_equal(heads.queries, np.arange(own.queries))
    if moved and not own.order:
        yield f"{place}: each head has positions of its own, so that none may change places"
    if np.any(heads.queries // own.shared != np.repeat(heads.groups, own.shared)):
        yield f"{place}: a query head would leave the key head that it belongs to"
    for word, matrices in (("qk", heads.qk), ("vo", heads.vo)):
        if matrices is None:
            continue
        if matrices.shape != (own.keys, own.size, own.size):
            yield f"{place}.{word} is {list(matrices.shape)}, not {[own.keys, own.size, own.size]}"
        elif not np.all(np.isfinite(matrices)) or np.linalg.cond(matrices).max() > 1e8:
            yield f"{place}.{word} has a matrix without an inverse"
        elif word == "qk":
            yield from _of_positions(place, matrices, own)


def _of_positions(place: str, matrices: np.ndarray, own: Attention) -> Iterator[str]:
    """Whether matrices of queries and keys are such as positions and norms do not see."""
    if own.free == "any":
        return
    if not own.free:
        yield f"{place}.qk: the norms of its queries and keys see any matrix"
        return
    left = matrices.copy()
    size = np.abs(matrices).max()
    for first, second in own.pairs:
        block = matrices[:, [first, second]][:, :, [first, second]]
        left[:, [[first], [second]], [first, second]] = 0.0
        turn = np.abs(block[:, 0, 0] - block[:, 1, 1]) + np.abs(block[:, 0, 1] + block[:, 1, 0])
        if turn.max() > CLOSE * size:
            yield f"{place}.qk: positions turn coordinates {first} and {second} together, and it is no turn of them"
            return
        if own.free == "signs" and not np.all((np.abs(block[:, 0, 0]) == 1.0) & (block[:, 0, 1] == 0.0)):
            yield f"{place}.qk: the norms of its queries and keys see all but signs of pairs of coordinates"
            return
    rest = [place for place in range(own.size) if all(place not in pair for pair in own.pairs)]
    if own.free == "planes" and rest:
        left[:, np.ix_(rest, rest)[0], np.ix_(rest, rest)[1]] = 0.0
    elif rest:
        left[:, rest, rest] = np.where(left[:, rest, rest] == 1.0, 0.0, left[:, rest, rest])
    if np.abs(left).max(initial=0.0) > CLOSE * size:
        yield f"{place}.qk mixes coordinates that positions turn by different angles"
