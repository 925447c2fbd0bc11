"""Arcee Fusion, compiled: importance, by the divergence of softmaxed rows."""

from __future__ import annotations

import numpy as np

from mergery.kernels import ROW_LANES as LANES
from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.maps import OVERFLOW
from mergery.kernels.compiled.patterns import bits, f32, i32, real, u32
from mergery.kernels.compiled.storage import STEP, decode, encode
from mergery.method.piece import Piece
from mergery.methods import _exponential as series
from mergery.methods.arcee_fusion import bound

f64, i64 = np.float64, np.int64
_EXP, _BEND = (np.array(table, np.float32) for table in (series.EXP, series.BEND))
_LOG = np.array(series.LOG)
_LOG2_E, _LN2_SHORT, _LN2_REST = f32(series.LOG2_E), f32(series.LN2_SHORT), f32(series.LN2_REST)
_LEAST, _LARGEST, _NEAR = f32(series.LEAST), f32(series.LARGEST), f32(series.NEAR)
_LN2_HIGH, _LN2_LOW = series.LN2_HIGH, series.LN2_LOW
_MANTISSA, _ONE = i64((1 << 52) - 1), i64(1023 << 52)
_UNHALVED = f32(-0.34)  # within ln(2) / 2 of 0
_SHIFTER = f32(1.5 * 2.0**23)
_ROOT = float(np.sqrt(2.0))


@inner
def _series(x):
    total = x * _EXP[0] + _EXP[1]
    for n in range(2, 7):
        total = total * x + _EXP[n]
    return total


@inner
def _exp(x):
    """e^x for x <= 0. See `mergery.methods._exponential.exp`."""
    inside = x if x > _LEAST else _LEAST
    whole = f32(inside * _LOG2_E + _SHIFTER)  # rounded to a whole number, which its lowest bits then hold
    halvings = whole - _SHIFTER
    total = _series((inside - halvings * _LN2_SHORT) - halvings * _LN2_REST)
    power = real(u32(u32(bits(whole) + u32(127)) << u32(23)))
    return total * power if x >= _LEAST else f32(0)


@inner
def _log(x):
    """ln(x). See `mergery.methods._exponential.log`."""
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
def _extremes(values):
    least, most = i32(0x7FFFFFFF), i32(-0x80000000)
    for e in range(values.size):
        own = _sortable(i32(bits(values[e])))
        least = own if own < least else least
        most = own if own > most else most
    return real(u32(_sortable(least))), real(u32(_sortable(most)))


@inner
def _exponentials(values, out):
    """e^(x - top) for a row. Returns the top."""
    least, most = _extremes(values)
    if least - most > _UNHALVED:  # no number of halvings but 0, as in most rows of weights
        for e in range(values.size):
            out[e] = _series(values[e] - most)
    else:
        for e in range(values.size):
            out[e] = _exp(values[e] - most)
    return most


@inner
def _add_four(values, lanes):
    for e in range(LANES):
        total = lanes[e]
        total += f64(values[e])
        total += f64(values[LANES + e])
        total += f64(values[2 * LANES + e])
        total += f64(values[3 * LANES + e])
        lanes[e] = total


@inner
def _row_sum(values, lanes):
    lanes[:] = 0
    whole = values.size - values.size % (4 * LANES)
    for start in range(0, whole, 4 * LANES):
        _add_four(values[start : start + 4 * LANES], lanes)
    for start in range(whole, values.size, LANES):
        part = values[start : start + LANES]
        for e in range(part.size):
            lanes[e] += f64(part[e])
    width = LANES
    while width > 1:
        width //= 2
        for lane in range(width):
            lanes[lane] += lanes[lane + width]
    return lanes[0]


@inner
def _terms(x, y, gap, share_p, share_q, p, q):
    """What the entries of a row add to its divergence, in place of p."""
    for e in range(x.size):
        ratio = max(min((x[e] - y[e]) - gap, _LARGEST), -_LARGEST)
        own, other = p[e] * share_p, q[e] * share_q
        total = ratio * _BEND[0] + _BEND[1]
        for n in range(2, 6):
            total = total * ratio + _BEND[n]
        near, far = own * (ratio * ratio * total), own * (ratio - f32(1)) + other
        p[e] = near if abs(ratio) <= _NEAR else far


@inner
def _divergence(x, y, work, lanes):
    """KL(softmax(x) || softmax(y)). See `mergery.methods.arcee_fusion.divergence`."""
    p, q = work[0], work[1]
    top_x, top_y = _exponentials(x, p), _exponentials(y, q)
    whole_p, whole_q = _row_sum(p, lanes), _row_sum(q, lanes)
    gap = (f64(top_x) - f64(top_y)) + _log(whole_p / whole_q)
    gap = max(min(gap, f64(_LARGEST)), -f64(_LARGEST))
    _terms(x, y, f32(gap), f32(1.0 / whole_p), f32(1.0 / whole_q), p, q)
    return _row_sum(p, lanes)


@kernel
def _divergences(raw, codes, n, columns, out):
    buffers, work, lanes = np.empty((2, columns), np.float32), np.empty((2, columns), np.float32), np.empty(LANES)
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
        out[e] = abs(values[e] - base[e]) * divergence


@inner
def _take(base, values, divergence, bound, out):
    for e in range(base.size):
        own, origin = values[e], base[e]
        out[e] = own if abs(own - origin) * divergence >= bound else origin


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
            _weigh(base, values, f32(divergence[row]), out[start:stop])
    return status


@kernel
def _fuse(raw, codes, columns, divergence, bound, out, out_code):
    buffers = np.empty((3, STEP), np.float32)
    status = np.int64(0)
    for row in range(divergence.size):
        for start in range(row * columns, (row + 1) * columns, STEP):
            size = min(STEP, (row + 1) * columns - start)
            base, values, taken = buffers[0, :size], buffers[1, :size], buffers[2, :size]
            status |= decode(raw[0], codes[0], start, base)
            status |= decode(raw[1], codes[1], start, values) << 1
            _take(base, values, f32(divergence[row]), f32(bound), taken)
            if encode(taken, out, out_code, start):
                status |= OVERFLOW
    return status


def _of_rows(piece: Piece) -> tuple[int, np.ndarray]:
    """The divergence of each row of a piece; found once and kept: a number for each row."""
    rows, first = piece.n // piece.columns, piece.start // piece.columns
    kept = piece.memory.get("divergence", np.empty(0))
    if kept.size < first + rows:
        kept = np.concatenate([kept, np.full(max(first + rows - kept.size, kept.size), np.nan)])
        piece.memory["divergence"] = kept
    own = kept[first : first + rows]
    if not np.isnan(own).any():
        return 0, own
    return _divergences(piece.raw, piece.codes, piece.n, piece.columns, own), own


def importance(piece: Piece, values: np.ndarray) -> int:
    """`mergery.methods.arcee_fusion.importance`."""
    status, rows = _of_rows(piece)
    return status | _importances(piece.raw, piece.codes, piece.columns, rows, values[0])


def arcee_fusion(piece: Piece, out: np.ndarray, out_code: int) -> int:
    """`mergery.methods.arcee_fusion.arcee_fusion`."""
    status, rows = _of_rows(piece)
    least = bound(*(piece.known[name] for name in ("q1", "median", "q3")))
    return status | _fuse(piece.raw, piece.codes, piece.columns, rows, least, out, out_code)
