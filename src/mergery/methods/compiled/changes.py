"""Compiled versions of methods that look at which entries a model changed: nearswap, ram, ramplus_tl."""

from __future__ import annotations

import numpy as np

from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.maps import OVERFLOW, add_scaled
from mergery.kernels.compiled.patterns import f32
from mergery.kernels.compiled.storage import STEP, decode, decode_vector, encode
from mergery.method.piece import Piece
from mergery.methods.ramplus_tl import factors


@inner
def _near(base, gap, values, t):
    """values, where the gap is at most t, else base plus the gap cut to t."""
    for e in range(base.size):
        own, distance = values[e], gap[e]
        cut = min(max(distance, -t), t)
        gap[e] = own if abs(distance) <= t else base[e] + cut


@kernel
def _nearswap(raw, codes, n, t, out, out_code):
    buffers = np.empty((3, STEP), np.float32)
    status = np.int64(0)
    for start in range(0, n, STEP):
        count = min(STEP, n - start)
        base, values, gap = buffers[0, :count], buffers[1, :count], buffers[2, :count]
        status |= decode(raw[0], codes[0], start, base)
        status |= decode(raw[1], codes[1], start, values) << 1
        for e in range(count):
            gap[e] = values[e] - base[e]
        _near(base, gap, values, f32(t))
        if encode(gap, out, out_code, start):
            status |= OVERFLOW
    return status


def nearswap(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.nearswap.nearswap`."""
    return _nearswap(piece.raw, piece.codes, piece.n, float(piece.known["t"]), out, out_code)


@inner
def _changed(delta, epsilon):
    return f32(1) if abs(delta) > epsilon else f32(0)


@inner
def _add_changed(delta, epsilon, total, count):
    for e in range(delta.size):
        value = delta[e]
        mask = _changed(value, epsilon)
        total[e] += value * mask
        count[e] += mask


@inner
def _set_changed(delta, epsilon, total, count):
    for e in range(delta.size):
        value = delta[e]
        mask = _changed(value, epsilon)
        total[e] = value * mask
        count[e] = mask


@inner
def _divide(total, count):
    for e in range(total.size):
        many = count[e]
        total[e] /= many if many > 1 else f32(1)


@kernel
def _ram(raw, codes, n, epsilon, scale, out, out_code):
    buffers = np.empty((4, STEP), np.float32)
    status = np.int64(0)
    for start in range(0, n, STEP):
        size = min(STEP, n - start)
        base, delta, total, count = buffers[0, :size], buffers[1, :size], buffers[2, :size], buffers[3, :size]
        status |= decode(raw[0], codes[0], start, base)
        for i in range(1, codes.size):
            status |= decode_vector(raw, codes, i, start, 1, base, delta)
            if i == 1:
                _set_changed(delta, f32(epsilon), total, count)
            else:
                _add_changed(delta, f32(epsilon), total, count)
        _divide(total, count)
        add_scaled(base, f32(scale), total)
        if encode(total, out, out_code, start):
            status |= OVERFLOW
    return status


def ram(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.ram.ram`."""
    known = piece.known
    return _ram(piece.raw, piece.codes, piece.n, known["epsilon"], known["scale"], out, out_code)


@inner
def _count_changed(delta, epsilon, count):
    for e in range(delta.size):
        count[e] += _changed(delta[e], epsilon)


@inner
def _meet(delta, epsilon, count):
    """How many entries this model changed, alone and with others."""
    alone, together = np.int32(0), np.int32(0)
    for e in range(delta.size):
        mine = abs(delta[e]) > epsilon
        many = count[e]
        alone = np.int32(alone + np.int32(mine & (many == 1)))
        together = np.int32(together + np.int32(mine & (many > 1)))
    return np.int64(alone), np.int64(together)


@inner
def _read_deltas(raw, codes, start, epsilon, base, deltas, count):
    """All deltas of a step, and how many models changed each entry. Returns the status."""
    size = base.size
    status = decode(raw[0], codes[0], start, base)
    count[:] = 0
    for i in range(deltas.shape[0]):
        delta = deltas[i, :size]
        status |= decode_vector(raw, codes, i + 1, start, 1, base, delta)
        _count_changed(delta, epsilon, count)
    return status


@kernel
def _overlaps(raw, codes, n, grain, epsilon, out):
    """out (2, k, grains): entries changed by a model alone, and with others."""
    k = codes.size - 1
    deltas, buffers = np.empty((k, STEP), np.float32), np.empty((2, STEP), np.float32)
    status = np.int64(0)
    for block in range(out.shape[2]):
        end = min((block + 1) * grain, n)
        out[:, :, block] = 0
        for start in range(block * grain, end, STEP):
            size = min(STEP, end - start)
            base, count = buffers[0, :size], buffers[1, :size]
            status |= _read_deltas(raw, codes, start, f32(epsilon), base, deltas, count)
            for i in range(k):
                alone, together = _meet(deltas[i, :size], f32(epsilon), count)
                out[0, i, block] += alone
                out[1, i, block] += together
    return status


def _met(piece: Piece, which: int, sums: np.ndarray) -> int:
    """Both sums are taken at once."""

    def find() -> tuple[int, np.ndarray]:
        found = np.empty((2, *sums.shape))
        return _overlaps(piece.raw, piece.codes, piece.n, piece.grain, piece.known["epsilon"], found), found

    status, found = piece.once("overlaps", find)
    sums[:] = found[which]
    return status


def unique(piece: Piece, sums: np.ndarray) -> int:
    """`mergery.methods.ramplus_tl.unique`, summed."""
    return _met(piece, 0, sums)


def shared(piece: Piece, sums: np.ndarray) -> int:
    """`mergery.methods.ramplus_tl.shared`, summed."""
    return _met(piece, 1, sums)


@inner
def _amplify(delta, epsilon, factor, count, total):
    for e in range(delta.size):
        value = delta[e]
        single = f32(1) if count[e] == 1 else f32(0)
        total[e] += value * _changed(value, epsilon) * (f32(1) + factor * single)


@kernel
def _ramplus(raw, codes, n, epsilon, factors, scale, out, out_code):
    k = codes.size - 1
    deltas, buffers = np.empty((k, STEP), np.float32), np.empty((3, STEP), np.float32)
    status = np.int64(0)
    for start in range(0, n, STEP):
        size = min(STEP, n - start)
        base, count, total = buffers[0, :size], buffers[1, :size], buffers[2, :size]
        status |= _read_deltas(raw, codes, start, f32(epsilon), base, deltas, count)
        total[:] = 0
        for i in range(k):
            _amplify(deltas[i, :size], f32(epsilon), factors[i], count, total)
        _divide(total, count)
        add_scaled(base, f32(scale), total)
        if encode(total, out, out_code, start):
            status |= OVERFLOW
    return status


def ramplus_tl(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.ramplus_tl.ramplus_tl`."""
    known = piece.known
    own = np.array(factors(known["overlap"], known["alone"], known["r"], known["alpha"]), np.float32)
    return _ramplus(piece.raw, piece.codes, piece.n, known["epsilon"], own, known["scale"], out, out_code)
