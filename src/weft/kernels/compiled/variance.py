"""The twin of SCE: selection by variance across models, energies, and the election of signs."""

from __future__ import annotations

import numpy as np

from weft.kernels import LANES
from weft.kernels.compiled.jit import inner, kernel
from weft.kernels.compiled.maps import OVERFLOW, add_scaled
from weft.kernels.compiled.piece import Piece
from weft.kernels.compiled.storage import STEP, decode, decode_vector, encode, f32
from weft.kernels.compiled.sums import add_products, total_of

f64 = np.float64


@inner
def _read(raw, codes, start, base, deltas):
    status = decode(raw[0], codes[0], start, base)
    for i in range(deltas.shape[0]):
        status |= decode_vector(raw, codes, i + 1, start, 1, base, deltas[i, : base.size])
    return status


@inner
def _add_apart(delta, first, total, square):
    for e in range(delta.size):
        apart = f64(delta[e]) - f64(first[e])
        total[e] += apart
        square[e] += apart * apart


@inner
def _root(total, square, share, values):
    for e in range(values.size):
        values[e] = f32(np.sqrt((square[e] - total[e] * total[e] * share) * share))


@inner
def _spread(deltas, moments, values):
    """The standard deviation of each entry across the models. See `weft.methods.sce.spread`."""
    size = values.size
    total, square = moments[0, :size], moments[1, :size]
    moments[:] = 0
    for i in range(1, deltas.shape[0]):
        _add_apart(deltas[i, :size], deltas[0, :size], total, square)
    _root(total, square, 1.0 / deltas.shape[0], values)


@kernel
def _spreads(raw, codes, n, out):
    k = codes.size - 1
    deltas, base, moments = np.empty((k, STEP), np.float32), np.empty(STEP, np.float32), np.empty((2, STEP))
    status = np.int64(0)
    for start in range(0, n, STEP):
        size = min(STEP, n - start)
        status |= _read(raw, codes, start, base[:size], deltas)
        _spread(deltas, moments, out[start : start + size])
    return status


def spread(piece: Piece, values: np.ndarray) -> int:
    """The twin of `weft.methods.sce.spread`."""
    return _spreads(piece.raw, piece.codes, piece.n, values[0])


@inner
def _positive(values):
    count = np.int32(0)
    for e in range(values.size):
        count = np.int32(count + np.int32(values[e] > 0))
    return np.int64(count)


@kernel
def _count_varying(raw, codes, n, grain, out):
    k = codes.size - 1
    deltas, buffers, moments = np.empty((k, STEP), np.float32), np.empty((2, STEP), np.float32), np.empty((2, STEP))
    status = np.int64(0)
    for block in range(out.size):
        end = min((block + 1) * grain, n)
        out[block] = 0
        for start in range(block * grain, end, STEP):
            size = min(STEP, end - start)
            base, values = buffers[0, :size], buffers[1, :size]
            status |= _read(raw, codes, start, base, deltas)
            _spread(deltas, moments, values)
            out[block] += _positive(values)
    return status


def varying(piece: Piece, sums: np.ndarray) -> int:
    """The twin of `weft.methods.sce.varying`, summed."""
    return _count_varying(piece.raw, piece.codes, piece.n, piece.grain, sums[0])


@inner
def _select(delta, values, cut):
    for e in range(delta.size):
        chosen = f32(1) if values[e] >= cut else f32(0)
        delta[e] *= chosen


@inner
def _selected(raw, codes, start, cut, base, deltas, moments, values):
    """All deltas of a step, zero where the models vary less than `cut`; a negative cut selects all."""
    status = _read(raw, codes, start, base, deltas)
    if cut >= 0:
        _spread(deltas, moments, values)
        for i in range(deltas.shape[0]):
            _select(deltas[i, : base.size], values, cut)
    return status


@kernel
def _energies(raw, codes, n, grain, cut, out):
    k = codes.size - 1
    deltas, buffers, moments = np.empty((k, STEP), np.float32), np.empty((2, STEP), np.float32), np.empty((2, STEP))
    lanes = np.empty((k, LANES))
    status = np.int64(0)
    for block in range(out.shape[1]):
        end = min((block + 1) * grain, n)
        lanes[:] = 0
        for start in range(block * grain, end, STEP):
            size = min(STEP, end - start)
            base, values = buffers[0, :size], buffers[1, :size]
            status |= _selected(raw, codes, start, f32(cut), base, deltas, moments, values)
            for i in range(k):
                add_products(deltas[i, :size], deltas[i, :size], lanes[i])
        for i in range(k):
            out[i, block] = total_of(lanes[i])
    return status


def energies(piece: Piece, sums: np.ndarray) -> int:
    """The twin of `weft.methods.sce.energies`, summed."""
    return _energies(piece.raw, piece.codes, piece.n, piece.grain, _cut(piece), sums)


def _cut(piece: Piece) -> float:
    cut = piece.known["cut"]
    return -1.0 if cut is None else float(cut)


@inner
def _add_vote(delta, vote):
    for e in range(delta.size):
        vote[e] += f64(delta[e])


@inner
def _gather(delta, weight, vote, merged, share):
    for e in range(delta.size):
        value = delta[e]
        sign = f32(1) if vote[e] >= 0 else f32(-1)
        agrees = f32(1) if value * sign > 0 else f32(0)
        merged[e] += weight * value * agrees
        share[e] += weight * agrees


@inner
def _divide_shares(merged, share):
    for e in range(merged.size):
        whole = share[e]
        merged[e] /= whole if whole != 0 else f32(1)


@kernel
def _merge(raw, codes, n, cut, weight, scale, out, out_code):
    k = codes.size - 1
    deltas, buffers, moments = np.empty((k, STEP), np.float32), np.empty((4, STEP), np.float32), np.empty((2, STEP))
    status = np.int64(0)
    for start in range(0, n, STEP):
        size = min(STEP, n - start)
        base, values, merged, share = buffers[0, :size], buffers[1, :size], buffers[2, :size], buffers[3, :size]
        status |= _selected(raw, codes, start, f32(cut), base, deltas, moments, values)
        vote = moments[0, :size]
        vote[:], merged[:], share[:] = 0, 0, 0
        for i in range(k):
            _add_vote(deltas[i, :size], vote)
        for i in range(k):
            _gather(deltas[i, :size], weight[i], vote, merged, share)
        _divide_shares(merged, share)
        add_scaled(base, f32(scale), merged)
        if encode(merged, out, out_code, start):
            status |= OVERFLOW
    return status


def sce(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """The twin of `weft.methods.sce.sce`."""
    from weft.methods.sce import shares

    known = piece.known
    weight = np.array(shares(known["energy"]), np.float32)
    cut = _cut(piece) if known["select_applies_to"] == "values" else -1.0
    return _merge(piece.raw, piece.codes, piece.n, cut, weight, known["scale"], out, out_code)
