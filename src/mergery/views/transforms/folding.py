"""Norms without gains: these are multiplied into what reads behind them, and taken out again.

A norm that divides by the root of the mean square does not see a rotation of the residual stream, but its gains do. With gains
of one, and what reads behind the norm multiplied by them, the model computes what it did, and can be rotated
(arXiv 2401.15024). In the coordinates of another model it gets that one's gains.

A layer norm takes off the mean before that. With u of equal numbers and length 1, it divides (1 - u u') x by its length: it
does not see a rotation that leaves u where it is, which turns what is orthogonal to u alone. What it adds, its bias, is divided
by the gains that it loses, turned, and multiplied by those that it gets: reader and bias together give what they gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mergery.architecture.norms import shift_of
from mergery.architecture.spaces import RESIDUAL, Piece, Spaces
from mergery.architecture.spelling import HEADS
from mergery.errors import PlanError
from mergery.graph.nodes import Computed, Node, Read
from mergery.graph.view import View
from mergery.views.heads import extended

SMALL = 1e-3  # of the largest gain of a norm: what is below cannot be taken out


def untied(view: View, spaces: Spaces) -> View:
    """The view with a head of its own, where it is tied to the embeddings: behind a norm without gains it is another matrix."""
    if any(piece.role == "head" for piece in spaces.pieces):
        return view
    embeds = [piece for piece in spaces.pieces if piece.role == "embed"]  # positions may stand among them
    words = next((piece for piece in embeds if piece.axes[0] is not None), embeds[0]).tensor
    return extended(replace(view, config=view.config.with_tied(False)), {HEADS[0]: view.nodes[words]})


def folded(view: View, spaces: Spaces) -> View:
    """The view with gains of one, and its readers multiplied by those that it had. It is untied; `spaces` are its own."""
    nodes = dict(view.nodes)
    for piece in _readers(spaces):
        norm = view.nodes[spaces.before[piece.tensor]]
        nodes[piece.tensor] = _scaled(piece, nodes[piece.tensor], norm, spaces.offset)
    for name in set(spaces.before.values()):
        if (shift := shift_of(name)) in nodes:
            nodes[shift] = _times(shift, nodes[shift], view.nodes[name], spaces.offset, out=True)
        nodes[name] = _constant(
            view.nodes[name], name, np.full(view.nodes[name].shape, 1.0 - spaces.offset, np.float32)
        )
    return replace(view, nodes=nodes)


def with_gains(view: View, spaces: Spaces, gains: Mapping[str, np.ndarray]) -> View:
    """A folded view with gains as they are given, which are taken out of its readers. Raises PlanError where one is about 0."""
    nodes = dict(view.nodes)
    for name, own in gains.items():
        check_gains(view.name, name, own, spaces.offset)
        nodes[name] = _constant(view.nodes[name], name, own)
        if (shift := shift_of(name)) in nodes:
            nodes[shift] = _times(shift, nodes[shift], nodes[name], spaces.offset)
    for piece in _readers(spaces):
        norm = nodes[spaces.before[piece.tensor]]
        nodes[piece.tensor] = _scaled(piece, nodes[piece.tensor], norm, spaces.offset, out=True)
    return replace(view, nodes=nodes)


def check_gains(model: str, name: str, gains: np.ndarray, offset: float) -> None:
    """Refuse gains by which something would be divided, where one is about 0: raises PlanError."""
    whole = np.abs(gains.astype(np.float64) + offset)
    if whole.min() < SMALL * whole.max():
        why = f"channel {int(whole.argmin())} of {name!r} has hardly any gain, by which weights behind it would be divided"
        raise PlanError(f"{model!r} cannot get other gains for its norms", why=why, hint="leave out rotation")


def _readers(spaces: Spaces) -> list[Piece]:
    """A piece of each tensor that reads the residual stream: the parts of a fused one read along the same axis."""
    return list({piece.tensor: piece for piece in spaces.pieces if piece.tensor in spaces.before}.values())


def _scaled(piece: Piece, node: Node, norm: Node, offset: float, *, out: bool = False) -> Node:
    """A tensor multiplied, or divided, by gains along the axis that reads."""
    axis = next(
        place for place, axis in enumerate(piece.axes) if axis is not None and axis.space == RESIDUAL and axis.reads
    )
    last = axis == len(piece.axes) - 1
    name = node.name if isinstance(node, Computed) else piece.tensor
    return _times(name, node, norm, offset, out=out, last=last)


def _times(name: str, node: Node, norm: Node, offset: float, *, out: bool = False, last: bool = True) -> Node:
    """A tensor multiplied, or divided, by gains along its last axis, or its first."""
    width = node.shape[-1]

    def made(reads: Sequence[Read]) -> Read:
        own = reads[1](0, norm.elements).astype(np.float64) + offset
        gains = (1.0 / own if out else own).astype(np.float32)

        def window(start: int, stop: int) -> np.ndarray:
            places = np.arange(start, stop)
            return reads[0](start, stop) * gains[places % width if last else places // width % len(gains)]

        return window

    words = "a model's tensor in terms of another norm's gains"
    return Computed(name, node.shape, (node, norm), made, words, 4 * norm.elements, 16, streamed=True, dtype=node.dtype)


def _constant(norm: Node, name: str, values: np.ndarray) -> Node:
    """Gains in the place of those of a norm, in its dtype."""

    def made(reads: Sequence[Read]) -> Read:
        return lambda start, stop: values[start:stop]

    return Computed(name, norm.shape, (), made, "gains of another model's norm", values.nbytes, dtype=norm.dtype)
