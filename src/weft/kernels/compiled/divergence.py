"""The twin of Arcee Fusion: importance, by the divergence of softmaxed rows, in float64."""

from __future__ import annotations

import numpy as np

from weft.kernels import LANES
from weft.kernels.compiled.jit import inner, kernel
from weft.kernels.compiled.maps import OVERFLOW
from weft.kernels.compiled.piece import Piece
from weft.kernels.compiled.storage import STEP, bits, decode, encode, f32, i32, real, u32
from weft.kernels.compiled.sums import total_of
from weft.methods import _exponential as series

f64, i64 = np.float64, np.int64
_EXP, _LOG, _BEND = (np.array(table) for table in (series.EXP, series.LOG, series.BEND))
_NEAR, _LOG2_E, _LN2_HIGH, _LN2_LOW, _LEAST = series.NEAR, series.LOG2_E, series.LN2_HIGH, series.LN2_LOW, series.LEAST
_MANTISSA, _ONE = i64((1 << 52) - 1), i64(1023 << 52)
_SHIFTER = 1.5 * 2.0**52
_ROOT = float(np.sqrt(2.0))


@inner
def _exp(x):
    """e^x for x <= 0. See `weft.methods._exponential.exp`."""
    inside = x if x > _LEAST else _LEAST
    whole = f64(inside * _LOG2_E + _SHIFTER)  # rounded to a whole number, which its lowest bits then hold
    halvings = whole - _SHIFTER
    rest = (inside - halvings * _LN2_HIGH) - halvings * _LN2_LOW
    total = rest * _EXP[0] + _EXP[1]
    for n in range(2, 12):
        total = total * rest + _EXP[n]
    power = i64(i64(f64(whole).view(np.int64) + i64(1023)) << i64(52)).view(np.float64)
    return total * power if x >= _LEAST else 0.0


@inner
def _log(x):
    """ln(x). See `weft.methods._exponential.log`."""
    pattern = f64(x).view(np.int64)
    exponent = (pattern >> i64(52)) - i64(1023)
    part = i64((pattern & _MANTISSA) | _ONE).view(np.float64)
    large = part > _ROOT
    part = part * 0.5 if large else part
    doublings = f64(exponent + i64(large))
    f = (part - 1.0) / (part + 1.0)
    square = f * f
    total = square * _LOG[0] + _LOG[1]
    for n in range(2, _LOG.size):
        total = total * square + _LOG[n]
    return doublings * _LN2_HIGH + (f * total + doublings * _LN2_LOW)


@inner
def _sortable(pattern):
    """Integers in the order of the numbers whose patterns they are; and back."""
    return i32(pattern ^ i32(i32(pattern >> i32(31)) & i32(0x7FFFFFFF)))


@inner
def _most(values):
    most = i32(-0x80000000)
    for e in range(values.size):
        own = _sortable(i32(bits(values[e])))
        most = own if own > most else most
    return f64(real(u32(_sortable(most))))


@inner
def _exponentials(values, most, out):
    for e in range(values.size):
        out[e] = _exp(f64(values[e]) - most)


@inner
def _row_sum(values, lanes):
    lanes[:] = 0
    for start in range(0, values.size, LANES):
        part = values[start : start + LANES]
        for e in range(part.size):
            lanes[e] += part[e]
    return total_of(lanes)


@inner
def _terms(x, y, top_x, top_y, shift, share_p, share_q, p, q):
    """What the entries of a row add to its divergence, in place of p."""
    for e in range(x.size):
        ratio = ((f64(x[e]) - top_x) - (f64(y[e]) - top_y)) - shift
        own, other = p[e] * share_p, q[e] * share_q
        total = ratio * _BEND[0] + _BEND[1]
        for n in range(2, 8):
            total = total * ratio + _BEND[n]
        near, far = own * (ratio * ratio * total), own * (ratio - 1.0) + other
        p[e] = near if abs(ratio) <= _NEAR else far


@inner
def _divergence(x, y, work, lanes):
    """KL(softmax(x) || softmax(y)). See `weft.methods.arcee_fusion.divergence`."""
    p, q = work[0], work[1]
    top_x, top_y = _most(x), _most(y)
    _exponentials(x, top_x, p)
    _exponentials(y, top_y, q)
    whole_p, whole_q = _row_sum(p, lanes), _row_sum(q, lanes)
    _terms(x, y, top_x, top_y, _log(whole_p / whole_q), 1.0 / whole_p, 1.0 / whole_q, p, q)
    return _row_sum(p, lanes)


@kernel
def _divergences(raw, codes, n, columns, out):
    buffers, work, lanes = np.empty((2, columns), np.float32), np.empty((2, columns)), np.empty(LANES)
    base, values = buffers[0], buffers[1]
    status = np.int64(0)
    for row in range(out.size):
        bad = decode(raw[0], codes[0], row * columns, base) | decode(raw[1], codes[1], row * columns, values) << 1
        status |= bad
        out[row] = 0.0 if bad else _divergence(values, base, work, lanes)
    return status


@inner
def _weigh(base, values, divergence, out):
    for e in range(base.size):
        out[e] = f32(f64(abs(values[e] - base[e])) * divergence)


@inner
def _take(importance, bound, base, values):
    for e in range(base.size):
        values[e] = values[e] if importance[e] >= bound else base[e]


@kernel
def _importances(raw, codes, columns, divergence, out):
    buffers = np.empty((2, STEP), np.float32)
    status = np.int64(0)
    for row in range(divergence.size):
        for start in range(row * columns, (row + 1) * columns, STEP):
            stop = min(start + STEP, (row + 1) * columns)
            base, values = buffers[0, : stop - start], buffers[1, : stop - start]
            status |= decode(raw[0], codes[0], start, base)
            status |= decode(raw[1], codes[1], start, values) << 1
            _weigh(base, values, divergence[row], out[start:stop])
    return status


@kernel
def _fuse(raw, codes, columns, divergence, bound, out, out_code):
    buffers = np.empty((3, STEP), np.float32)
    status = np.int64(0)
    for row in range(divergence.size):
        for start in range(row * columns, (row + 1) * columns, STEP):
            size = min(STEP, (row + 1) * columns - start)
            base, values, importance = buffers[0, :size], buffers[1, :size], buffers[2, :size]
            status |= decode(raw[0], codes[0], start, base)
            status |= decode(raw[1], codes[1], start, values) << 1
            _weigh(base, values, divergence[row], importance)
            _take(importance, f32(bound), base, values)
            if encode(values, out, out_code, start):
                status |= OVERFLOW
    return status


def _of_rows(piece: Piece) -> tuple[int, np.ndarray]:
    """The divergence of each row of a piece; found once and kept: a number for each row."""
    rows = piece.n // piece.columns
    found = np.empty(rows)
    first = piece.start // piece.columns
    kept = piece.memory.setdefault("divergence", {})
    if all(row in kept for row in range(first, first + rows)):
        found[:] = [kept[row] for row in range(first, first + rows)]
        return 0, found
    status = _divergences(piece.raw, piece.codes, piece.n, piece.columns, found)
    if not status:
        kept.update(zip(range(first, first + rows), found.tolist(), strict=True))
    return status, found


def importance(piece: Piece, values: np.ndarray) -> int:
    """The twin of `weft.methods.arcee_fusion.importance`."""
    status, rows = _of_rows(piece)
    return status | _importances(piece.raw, piece.codes, piece.columns, rows, values[0])


def arcee_fusion(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """The twin of `weft.methods.arcee_fusion.arcee_fusion`."""
    from weft.methods.arcee_fusion import bound

    status, rows = _of_rows(piece)
    least = bound(*(piece.known[name] for name in ("q1", "median", "q3")))
    return status | _fuse(piece.raw, piece.codes, piece.columns, rows, least, out, out_code)
