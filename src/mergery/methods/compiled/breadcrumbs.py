"""Compiled versions of breadcrumbs where thresholds say what is kept, which makes it a consensus; and sums of magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mergery.kernels import LANES
from mergery.kernels.compiled.jit import kernel
from mergery.kernels.compiled.maps import consensus
from mergery.kernels.compiled.patterns import f32
from mergery.kernels.compiled.storage import STEP, decode, decode_vector
from mergery.kernels.compiled.sums import add_sizes, total_of
from mergery.method.piece import Piece


def by_thresholds(settings: Mapping[str, Any]) -> bool:
    return settings["scope"] == "tensor"


@kernel
def size_sums(raw, codes, n, grain, least, most, out):
    """out (2, k, grains): sums of magnitudes, and of those that lie in [least_i, most_i]."""
    k = codes.size - 1
    buffers, lanes = np.empty((2, STEP), np.float32), np.empty((2, k, LANES))
    status = np.int64(0)
    for block in range(out.shape[2]):
        end = min((block + 1) * grain, n)
        lanes[:] = 0
        for start in range(block * grain, end, STEP):
            count = min(STEP, end - start)
            base, delta = buffers[0, :count], buffers[1, :count]
            status |= decode(raw[0], codes[0], start, base)
            for i in range(k):
                status |= decode_vector(raw, codes, i + 1, start, 1, base, delta)
                add_sizes(delta, f32(0), f32(np.inf), lanes[0, i])
                add_sizes(delta, least[i], most[i], lanes[1, i])
        for side in range(2):
            for i in range(k):
                out[side, i, block] = total_of(lanes[side, i])
    return status


def restoring(piece: Piece) -> np.ndarray:
    """What brings each model's sum of magnitudes back: float32 (k,)."""
    before, after = piece.known["before"], piece.known["after"]
    if before is None or after is None:
        return np.ones(piece.k, np.float32)
    ratios = [whole / kept if kept > 0.0 else 1.0 for whole, kept in zip(before, after, strict=True)]
    return np.array(ratios, np.float32)


def merge_between(piece: Piece, elect: int, out: np.ndarray, out_code: int) -> int:
    """Breadcrumbs whose thresholds are known, with or without an election."""
    known, every = piece.known, np.ones(piece.k, np.float32)
    return consensus(
        piece.raw, piece.codes, piece.n, piece.start, piece.keys, piece.singles("weight"), piece.singles("least"),
        piece.singles("most"), every, restoring(piece), 0, elect, int(known["normalize"]),
        float(known["weight"].sum()), float(known["scale"]), out, out_code,
    )  # fmt: skip
