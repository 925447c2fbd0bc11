"""Compiled versions of methods that thin each row by ranks: della and, by rows, breadcrumbs. What is kept is found out once
for each piece and, while it takes little memory, remembered as bits for the passes that follow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mergery.kernels import LANES
from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.maps import clear, finish, gather
from mergery.kernels.compiled.patterns import f32
from mergery.kernels.compiled.rows import select, toss
from mergery.kernels.compiled.scratch import make_scratch
from mergery.kernels.compiled.sorting import assign
from mergery.kernels.compiled.storage import STEP, decode, decode_vector
from mergery.kernels.compiled.sums import add_magnitudes, total_of
from mergery.kernels.compiled.thinning import fill_coins
from mergery.method.piece import Piece
from mergery.methods.breadcrumbs import counts
from mergery.methods.compiled.breadcrumbs import by_thresholds, merge_between, restoring, size_sums
from mergery.methods.della_linear import steps

# --- which entries are kept -----------------------------------------------------------------------------------------


@kernel
def _toss(raw, codes, n, offset, columns, keys, limits, flags, grain, sums):
    """Flags (k, n): 1 where an entry's coin lies below the limit of its rank in its row. limits: int32 (k, columns).

    sums (2, k, grains), or (2, k, 0) where they are not wanted: of all magnitudes, and of those that are flagged. A grain is
    of whole rows.
    """
    k = flags.shape[0]
    scratch, base, lanes = make_scratch(columns), np.empty(columns, np.float32), np.zeros((2, k, LANES))
    values = scratch.values[:columns]
    status = np.int64(0)
    for start in range(0, n, columns):
        stop = start + columns
        status |= decode(raw[0], codes[0], start, base)
        for i in range(k):
            status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
            own = flags[i, start:stop]
            toss(scratch, keys[i], offset + start, limits[i], own)
            if sums.shape[2]:
                add_magnitudes(values, own, start % grain, lanes[0, i], lanes[1, i])
        if sums.shape[2] and (stop % grain == 0 or stop == n):
            for side in range(2):
                for i in range(k):
                    sums[side, i, start // grain] = total_of(lanes[side, i])
            lanes[:] = 0
    return status


@kernel
def _between(raw, codes, n, columns, first, last, flags):
    """Flags (k, n): 1 where an entry's rank by falling magnitude in its row, from 0, lies in [first_i, last_i)."""
    scratch, base = make_scratch(columns), np.empty(columns, np.float32)
    values = scratch.values[:columns]
    status = np.int64(0)
    for start in range(0, n, columns):
        status |= decode(raw[0], codes[0], start, base)
        for i in range(flags.shape[0]):
            status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
            own = flags[i, start : start + columns]
            select(scratch, first[i], last[i], own)
    return status


@kernel
def _draw(raw, codes, n, offset, columns, keys, steps, flags, chances):
    """Chances (k, n): each entry's probability by its rank in its row; flags: whether its coin lies below it."""
    scratch, base = make_scratch(columns), np.empty(columns, np.float32)
    values, coins = scratch.values[:columns], scratch.coins[:columns]
    status = np.int64(0)
    for start in range(0, n, columns):
        status |= decode(raw[0], codes[0], start, base)
        for i in range(flags.shape[0]):
            status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
            own, chance = flags[i, start : start + columns], chances[i, start : start + columns]
            assign(scratch, steps[i], chance)
            fill_coins(coins, keys[i], offset + start)
            for e in range(columns):
                own[e] = np.uint8(f32(coins[e]) * f32(2.0**-24) < chance[e])
    return status


# --- what is made of them -------------------------------------------------------------------------------------------


@inner
def _keep(values, flags):
    for e in range(values.size):
        values[e] = values[e] if flags[e] else f32(0)


@inner
def _keep_divided(values, flags, chances):
    for e in range(values.size):
        value = values[e] / chances[e]
        values[e] = value if flags[e] else f32(0)


@kernel
def _flagged_sums(raw, codes, n, grain, flags, out):
    """out (2, k, grains): sums of magnitudes, and of those that are flagged."""
    k = codes.size - 1
    buffers, lanes = np.empty((2, STEP), np.float32), np.empty((2, k, LANES))
    status = np.int64(0)
    for block in range(out.shape[2]):
        end = min((block + 1) * grain, n)
        lanes[:] = 0
        for start in range(block * grain, end, STEP):
            stop = min(start + STEP, end)
            base, values = buffers[0, : stop - start], buffers[1, : stop - start]
            status |= decode(raw[0], codes[0], start, base)
            for i in range(k):
                status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
                add_magnitudes(values, flags[i, start:stop], start % grain, lanes[0, i], lanes[1, i])
        for side in range(2):
            for i in range(k):
                out[side, i, block] = total_of(lanes[side, i])
    return status


@kernel
def _merge_flagged(raw, codes, n, flags, chances, weight, gain, elect, normalize, divisor, scale, out, out_code):
    """`mergery.kernels.readable.consensus` with flags for the thinning; where chances are given, it divides by them."""
    k = codes.size - 1
    work, base_buffer = np.empty(5 * STEP, np.float32), np.empty(STEP, np.float32)
    status = np.int64(0)
    for start in range(0, n, STEP):
        stop = min(start + STEP, n)
        base, values = base_buffer[: stop - start], work[: stop - start]
        clear(work, normalize)
        status |= decode(raw[0], codes[0], start, base)
        for i in range(k):
            status |= decode_vector(raw, codes, i + 1, start, 1, base, values)
            if chances.shape[1]:
                _keep_divided(values, flags[i, start:stop], chances[i, start:stop])
            else:
                _keep(values, flags[i, start:stop])
            gather(work, stop - start, None, None, gain[i], weight[i], elect, normalize)
        status |= finish(work, base, elect, normalize, divisor, scale, out, out_code, start)
    return status


# --- methods, and what they ask ---------------------------------------------------------------------------------------


def _flags(piece: Piece, find: Callable[[Piece, np.ndarray], int]) -> tuple[int, np.ndarray]:
    """The status and the flags of a piece."""
    flags = piece.recall()
    if flags is not None:
        return 0, flags
    flags = np.empty((piece.k, piece.n), np.uint8)
    return find(piece, flags), flags


def _ramps(piece: Piece) -> np.ndarray:
    """Probabilities by rank, from the smallest magnitude: float32 (k, columns)."""
    pairs = zip(piece.known["density"], piece.known["window"], strict=True)
    return np.stack([steps(piece.columns, float(density), float(window)) for density, window in pairs])


def _remembered_ramps(piece: Piece) -> tuple[np.ndarray, np.ndarray]:
    """The ramps, and the numbers of coins that lie below them: int32."""
    if "ramps" not in piece.memory:
        ramps = _ramps(piece)
        piece.memory["ramps"] = ramps, np.ceil(ramps.astype(np.float64) * 2.0**24).astype(np.int32)
    return piece.memory["ramps"]


def _by_coin(piece: Piece, flags: np.ndarray, sums: np.ndarray | None = None) -> int:
    limits = _remembered_ramps(piece)[1]
    wanted = np.empty((2, piece.k, 0)) if sums is None else sums
    return _toss(
        piece.raw, piece.codes, piece.n, piece.start, piece.columns, piece.keys, limits, flags, piece.grain, wanted
    )


def _by_rank(piece: Piece, flags: np.ndarray) -> int:
    pairs = zip(piece.known["density"], piece.known["gamma"], strict=True)
    cuts = np.array([counts(piece.columns, float(density), float(gamma)) for density, gamma in pairs], np.int64)
    first = np.ascontiguousarray(cuts[:, 0])
    return _between(piece.raw, piece.codes, piece.n, piece.columns, first, first + cuts[:, 1], flags)


def _merge(piece: Piece, elect: int, flags: np.ndarray, chances: np.ndarray, out: np.ndarray, out_code: int) -> int:
    known = piece.known
    return _merge_flagged(
        piece.raw, piece.codes, piece.n, flags, chances, piece.singles("weight"), restoring(piece), elect,
        int(known["normalize"]), float(known["weight"].sum()), float(known["scale"]), out, out_code,
    )  # fmt: skip


def _della(piece: Piece, elect: int, out: np.ndarray, out_code: int) -> int:
    if piece.known["rescale"] != "probability":
        status, flags = _flags(piece, _by_coin)
        return status | _merge(piece, elect, flags, np.empty((piece.k, 0), np.float32), out, out_code)
    flags, chances = np.empty((piece.k, piece.n), np.uint8), np.empty((piece.k, piece.n), np.float32)
    ramps = _remembered_ramps(piece)[0]
    status = _draw(piece.raw, piece.codes, piece.n, piece.start, piece.columns, piece.keys, ramps, flags, chances)
    return status | _merge(piece, elect, flags, chances, out, out_code)


def della(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.della.della`."""
    return _della(piece, 1, out, out_code)


def della_linear(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.della_linear.della_linear`."""
    return _della(piece, 0, out, out_code)


def _sizes(piece: Piece, find: Callable[[Piece, np.ndarray], int], which: int, sums: np.ndarray) -> int:
    """Sums of magnitudes before (0) and after (1) thinning, which are taken at once."""

    def both() -> tuple[int, np.ndarray]:
        found = np.empty((2, *sums.shape))
        status = find(piece, found)
        return status, found

    status, found = piece.once("sizes", both)
    sums[:] = found[which]
    return status


def _thinned_by_coin(piece: Piece, sums: np.ndarray) -> int:
    flags = np.empty((piece.k, piece.n), np.uint8)
    status = _by_coin(piece, flags, sums)
    piece.remember(flags)
    return status


def _thinned_by_rank(piece: Piece, sums: np.ndarray) -> int:
    if by_thresholds(piece.known):
        least, most = piece.singles("least"), piece.singles("most")
        return size_sums(piece.raw, piece.codes, piece.n, piece.grain, least, most, sums)
    flags = np.empty((piece.k, piece.n), np.uint8)
    status = _by_rank(piece, flags)
    piece.remember(flags)
    return status | _flagged_sums(piece.raw, piece.codes, piece.n, piece.grain, flags, sums)


def della_before(piece: Piece, sums: np.ndarray) -> int:
    """`mergery.methods.della_linear.sizes`, summed."""
    return _sizes(piece, _thinned_by_coin, 0, sums)


def della_after(piece: Piece, sums: np.ndarray) -> int:
    """`mergery.methods.della_linear.kept_sizes`, summed; it is asked for where nothing is divided."""
    return _sizes(piece, _thinned_by_coin, 1, sums)


def breadcrumbs_before(piece: Piece, sums: np.ndarray) -> int:
    """`mergery.methods.breadcrumbs.sizes`, summed."""
    return _sizes(piece, _thinned_by_rank, 0, sums)


def breadcrumbs_after(piece: Piece, sums: np.ndarray) -> int:
    """`mergery.methods.breadcrumbs.kept_sizes`, summed."""
    return _sizes(piece, _thinned_by_rank, 1, sums)


def _breadcrumbs(piece: Piece, elect: int, out: np.ndarray, out_code: int) -> int:
    if by_thresholds(piece.known):
        return merge_between(piece, elect, out, out_code)
    status, flags = _flags(piece, _by_rank)
    return status | _merge(piece, elect, flags, np.empty((piece.k, 0), np.float32), out, out_code)


def breadcrumbs(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.breadcrumbs.breadcrumbs`."""
    return _breadcrumbs(piece, 0, out, out_code)


def breadcrumbs_ties(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.breadcrumbs_ties.breadcrumbs_ties`."""
    return _breadcrumbs(piece, 1, out, out_code)
