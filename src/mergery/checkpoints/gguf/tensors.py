"""The tensors of a GGUF file as transformers names and stores them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.gguf.families import DECAY, FLAT, ONE, ROTARY, Family
from mergery.dtypes import F32

if TYPE_CHECKING:
    import numpy as np

_SUFFIX = re.compile(r"(.+)\.(weight|bias)")
_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
Fetch = Callable[[int, int], "np.ndarray"]  # elements [start, stop) of a GGUF tensor as float32


class Piece(NamedTuple):
    """Where a tensor's values stand: `info.elements` elements of a GGUF tensor from `start` on, changed."""

    info: TensorInfo
    source: str
    start: int = 0
    change: str = ""
    heads: int = 0

    @property
    def computed(self) -> bool:
        """Whether values or their order differ from the file's."""
        return self.change in (ROTARY, ONE, DECAY)


def split_name(name: str) -> tuple[str, int | None, str]:
    """`blk.3.attn_q.weight` as (`attn_q`, 3, `.weight`)."""
    stem, suffix = name, ""
    if match := _SUFFIX.fullmatch(name):
        stem, suffix = match[1], f".{match[2]}"
    if match := _LAYER.fullmatch(stem):
        return match[2], int(match[1]), suffix
    return stem, None, suffix


def pieces_of(
    family: Family, tensors: Mapping[str, TensorInfo], heads: Mapping[str, int]
) -> tuple[list[Piece], list[str]]:
    """Each tensor of transformers, and the GGUF tensors that have none. `heads` says how many heads a module has, by the last
    part of GGUF's name.
    """
    ours = {theirs.replace("{i}.", "").removeprefix("blk."): name for name, theirs in family.names.items()}
    layered = {theirs for theirs in family.names.values() if "{i}" in theirs}
    pieces: list[Piece] = []
    unknown: list[str] = []
    for name, info in tensors.items():
        leaf, layer, suffix = split_name(name)
        template = ours.get(leaf)
        if template is None or (f"blk.{{i}}.{leaf}" in layered) != (layer is not None):
            unknown.append(name)
            continue
        target = template.replace("{i}", str(layer)) + suffix
        change = family.changes.get(leaf, "")
        if "{e}" in target:
            inner = info.shape[1:]
            for expert in range(info.shape[0] if info.shape else 0):
                each = TensorInfo(target.replace("{e}", str(expert)), inner, info.dtype)
                pieces.append(Piece(each, name, expert * each.elements))
        elif change == FLAT and suffix == ".weight":
            shape = (1, *info.shape) if len(info.shape) == 1 else (info.shape[0], 1, *info.shape[1:])
            pieces.append(Piece(TensorInfo(target, shape, info.dtype), name))
        else:
            change = "" if change == FLAT else change
            dtype = F32 if change in (ONE, DECAY) else info.dtype
            pieces.append(Piece(TensorInfo(target, info.shape, dtype), name, 0, change, heads.get(leaf, 0)))
    return pieces, unknown


def span(piece: Piece, start: int, stop: int) -> tuple[int, int]:
    """The elements of a piece that are wanted for [start, stop) of it: whole heads, where rows change places."""
    if piece.change != ROTARY:
        return start, stop
    head = piece.info.elements // piece.heads
    return start // head * head, -(-stop // head) * head


def changed(piece: Piece, values: np.ndarray) -> np.ndarray:
    """The values of a `span` as transformers has them. One-dimensional, of any dtype where only places change."""
    import numpy as np

    if piece.change == ONE:
        return values - np.float32(1)
    if piece.change == DECAY:
        with np.errstate(all="ignore"):  # what is not finite is told where it is merged
            return np.log(-values)
    if piece.change == ROTARY:
        width = piece.info.elements // piece.info.shape[0]
        half = piece.info.shape[0] // piece.heads // 2
        return values.reshape(-1, half, 2, width).swapaxes(1, 2).reshape(-1)
    return values
