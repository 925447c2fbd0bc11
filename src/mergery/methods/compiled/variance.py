"""SCE, compiled: selection by variance across models, energies, and the election of signs."""

from __future__ import annotations

import numpy as np

from mergery.kernels import LANES
from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.maps import OVERFLOW
from mergery.kernels.compiled.patterns import f32, u8
from mergery.kernels.compiled.storage import STEP, decode, decode_vector, encode
from mergery.kernels.compiled.sums import add_products, total_of
from mergery.method.piece import Piece
from mergery.methods.sce import shares

f64 = np.float64


@inner
def _read(raw, codes, start, base, deltas):
    status = decode(raw[0], codes[0], start, base)
    for i in range(deltas.shape[0]):
        status |= decode_vector(raw, codes, i + 1, start, 1, base, deltas[i, : base.size])
    return status


@inner
def _set_apart(first, one, two, total, square):
    for e in range(first.size):
        origin = f64(first[e])
        a, b = f64(one[e]) - origin, f64(two[e]) - origin
        total[e], square[e] = a + b, a * a + b * b


@inner
def _add_apart(first, delta, total, square):
    for e in range(delta.size):
        apart = f64(delta[e]) - f64(first[e])
        total[e] += apart
        square[e] += apart * apart


@inner
def _moments(deltas, size, moments):
    """Sums of what is apart from the first model, and of its squares: moments (2, STEP)."""
    total, square, first = moments[0, :size], moments[1, :size], deltas[0, :size]
    begun = 1
    if deltas.shape[0] > 2:
        _set_apart(first, deltas[1, :size], deltas[2, :size], total, square)
        begun = 3
    else:
        total[:], square[:] = 0, 0
    for i in range(begun, deltas.shape[0]):
        _add_apart(first, deltas[i, :size], total, square)


@inner
def _variance(total, square, share):
    return (square - total * total * share) * share


@inner
def _root(moments, share, values):
    """The standard deviation of each entry across the models. See `mergery.methods.sce.spread`."""
    total, square = moments[0], moments[1]
    for e in range(values.size):
        values[e] = f32(np.sqrt(_variance(total[e], square[e], share)))


@kernel
def _spreads(raw, codes, n, out):
    k = codes.size - 1
    deltas, base, moments = np.empty((k, STEP), np.float32), np.empty(STEP, np.float32), np.empty((2, STEP))
    status = np.int64(0)
    for start in range(0, n, STEP):
        size = min(STEP, n - start)
        status |= _read(raw, codes, start, base[:size], deltas)
        _moments(deltas, size, moments)
        _root(moments, 1.0 / k, out[start : start + size])
    return status


def spread(piece: Piece, values: np.ndarray) -> int:
    """`mergery.methods.sce.spread`."""
    return _spreads(piece.raw, piece.codes, piece.n, values[0])


def least_variance(cut: float) -> float:
    """The least variance whose root, as float32, reaches `cut`: comparing with it spares the root."""
    if cut == np.inf:
        return np.inf
    most = np.square(np.finfo(np.float32).max, dtype=np.float64)
    low, high = 0, int(most.view(np.int64))  # patterns of numbers, in their order
    while low < high:
        middle = (low + high) // 2
        if np.float32(np.sqrt(np.int64(middle).view(np.float64))) >= np.float32(cut):
            high = middle
        else:
            low = middle + 1
    return float(np.int64(low).view(np.float64))


@inner
def _choose(moments, share, least, flags):
    total, square = moments[0], moments[1]
    for e in range(flags.size):
        flags[e] = u8(1) if _variance(total[e], square[e], share) >= least else u8(0)


@inner
def _select(delta, flags):
    for e in range(delta.size):
        delta[e] = delta[e] if flags[e] else f32(0)


@kernel
def _energies(raw, codes, n, grain, least, flags, out):
    """out (k, grains): sums of squares of the entries that vary by at least `least`, which flags (n,) then tell.

    Without flags, (0,), all entries are taken.
    """
    k = codes.size - 1
    deltas, buffer, moments = np.empty((k, STEP), np.float32), np.empty(STEP, np.float32), np.empty((2, STEP))
    lanes = np.empty((k, LANES))
    status = np.int64(0)
    for block in range(out.shape[1]):
        end = min((block + 1) * grain, n)
        lanes[:] = 0
        for start in range(block * grain, end, STEP):
            size = min(STEP, end - start)
            status |= _read(raw, codes, start, buffer[:size], deltas)
            if flags.size:
                _moments(deltas, size, moments)
                _choose(moments, 1.0 / k, least, flags[start : start + size])
            for i in range(k):
                delta = deltas[i, :size]
                if flags.size:
                    _select(delta, flags[start : start + size])
                add_products(delta, delta, lanes[i])
        for i in range(k):
            out[i, block] = total_of(lanes[i])
    return status


def _selection(piece: Piece) -> np.ndarray:
    """Room for flags: none where everything is selected."""
    return np.empty(0 if piece.known["cut"] is None else piece.n, np.uint8)


def _cut(piece: Piece) -> float:
    """The least variance that is selected."""
    cut = piece.known["cut"]
    if cut is None:
        return 0.0
    if "cut" not in piece.memory:
        piece.memory["cut"] = least_variance(float(cut))
    return piece.memory["cut"]


def energies(piece: Piece, sums: np.ndarray) -> int:
    """`mergery.methods.sce.energies`, summed."""
    flags = _selection(piece)
    status = _energies(piece.raw, piece.codes, piece.n, piece.grain, _cut(piece), flags, sums)
    if flags.size:
        piece.remember(flags[None])
    return status


@inner
def _vote_of_two(one, two, vote):
    for e in range(one.size):
        vote[e] = f64(one[e]) + f64(two[e])


@inner
def _add_vote(delta, vote):
    for e in range(delta.size):
        vote[e] += f64(delta[e])


@inner
def _signs(vote, sign):
    for e in range(sign.size):
        sign[e] = f32(1) if vote[e] >= 0 else f32(-1)


@inner
def _elect(deltas, vote, sign):
    """The sign of each entry's sum, zero counting as positive."""
    size, begun = sign.size, 0
    if deltas.shape[0] > 1:
        _vote_of_two(deltas[0, :size], deltas[1, :size], vote)
        begun = 2
    else:
        vote[:] = 0
    for i in range(begun, deltas.shape[0]):
        _add_vote(deltas[i, :size], vote)
    _signs(vote, sign)


@inner
def _gather(delta, weight, sign, merged, share):
    for e in range(delta.size):
        value = delta[e]
        agrees = f32(1) if value * sign[e] > 0 else f32(0)
        merged[e] += weight * value * agrees
        share[e] += weight * agrees


@inner
def _finish(base, scale, merged, share):
    """merged = base + scale * merged / share."""
    for e in range(merged.size):
        whole = share[e]
        merged[e] = base[e] + scale * (merged[e] / (whole if whole != 0 else f32(1)))


@kernel
def _merge(raw, codes, n, flags, weight, scale, out, out_code):
    k = codes.size - 1
    deltas, buffers, votes = np.empty((k, STEP), np.float32), np.empty((4, STEP), np.float32), np.empty(STEP)
    status = np.int64(0)
    for start in range(0, n, STEP):
        size = min(STEP, n - start)
        base, sign, merged, share = buffers[0, :size], buffers[1, :size], buffers[2, :size], buffers[3, :size]
        status |= _read(raw, codes, start, base, deltas)
        if flags.size:
            for i in range(k):
                _select(deltas[i, :size], flags[start : start + size])
        _elect(deltas, votes[:size], sign)
        merged[:], share[:] = 0, 0
        for i in range(k):
            _gather(deltas[i, :size], weight[i], sign, merged, share)
        _finish(base, f32(scale), merged, share)
        if encode(merged, out, out_code, start):
            status |= OVERFLOW
    return status


@kernel
def _selected(raw, codes, n, least, flags):
    """Flags (n,): 1 where the models vary by at least `least`."""
    k = codes.size - 1
    deltas, buffer, moments = np.empty((k, STEP), np.float32), np.empty(STEP, np.float32), np.empty((2, STEP))
    status = np.int64(0)
    for start in range(0, n, STEP):
        size = min(STEP, n - start)
        status |= _read(raw, codes, start, buffer[:size], deltas)
        _moments(deltas, size, moments)
        _choose(moments, 1.0 / k, least, flags[start : start + size])
    return status


def sce(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.sce.sce`."""
    known, flags, status = piece.known, np.empty(0, np.uint8), 0
    if known["select_applies_to"] == "values" and known["cut"] is not None:
        remembered = piece.recall()
        if remembered is not None:
            flags = remembered[0]
        else:
            flags = _selection(piece)
            status = _selected(piece.raw, piece.codes, piece.n, _cut(piece), flags)
    weight = np.array(shares(known["energy"]), np.float32)
    return status | _merge(piece.raw, piece.codes, piece.n, flags, weight, known["scale"], out, out_code)
