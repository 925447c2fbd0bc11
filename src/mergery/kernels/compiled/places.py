"""Rows with their elements in another order, as bits.

An element of two or four bytes is slow to fetch by itself. So as many rows as fit into 64 bits are packed side by side, and one
fetch moves their elements of one column together.
"""

from __future__ import annotations

import numpy as np

from mergery.kernels.compiled.jit import inner, kernel
from mergery.kernels.compiled.patterns import u16, u32, u64


@inner
def _one(row, columns, flips, flip, out):
    for e in range(columns.size):
        out[e] = row[columns[e]] ^ flips[e] ^ flip


@inner
def _fetch(packed, columns, found):
    for e in range(columns.size):
        found[e] = packed[columns[e]]


@kernel
def _singly(rows, order, columns, flips, row_flips, out):
    for i in range(order.size):
        _one(rows[order[i]], columns, flips, row_flips[i], out[i])
    return np.int64(0)


@kernel
def _by_two(rows, order, columns, flips, row_flips, out):
    width, count = columns.size, order.size
    packed, found = np.empty(rows.shape[1], np.uint64), np.empty(width, np.uint64)
    for i in range(0, count - 1, 2):
        a, b = rows[order[i]], rows[order[i + 1]]
        for e in range(packed.size):
            packed[e] = u64(a[e]) | u64(u64(b[e]) << u64(32))
        _fetch(packed, columns, found)
        a, b, of_a, of_b = out[i], out[i + 1], row_flips[i], row_flips[i + 1]
        for e in range(width):
            both, flip = found[e], flips[e]
            a[e] = u32(both) ^ flip ^ of_a
            b[e] = u32(both >> u64(32)) ^ flip ^ of_b
    if count % 2:
        _one(rows[order[count - 1]], columns, flips, row_flips[count - 1], out[count - 1])
    return np.int64(0)


@kernel
def _by_four(rows, order, columns, flips, row_flips, out):
    width, count = columns.size, order.size
    packed, found = np.empty(rows.shape[1], np.uint64), np.empty(width, np.uint64)
    for i in range(0, count - 3, 4):
        a, b, c, d = rows[order[i]], rows[order[i + 1]], rows[order[i + 2]], rows[order[i + 3]]
        for e in range(packed.size):
            low = u64(a[e]) | u64(u64(b[e]) << u64(16))
            packed[e] = low | u64(u64(c[e]) << u64(32)) | u64(u64(d[e]) << u64(48))
        _fetch(packed, columns, found)
        a, b, c, d = out[i], out[i + 1], out[i + 2], out[i + 3]
        of_a, of_b, of_c, of_d = row_flips[i], row_flips[i + 1], row_flips[i + 2], row_flips[i + 3]
        for e in range(width):
            four, flip = found[e], flips[e]
            a[e] = u16(four) ^ flip ^ of_a
            b[e] = u16(four >> u64(16)) ^ flip ^ of_b
            c[e] = u16(four >> u64(32)) ^ flip ^ of_c
            d[e] = u16(four >> u64(48)) ^ flip ^ of_d
    for i in range(count // 4 * 4, count):
        _one(rows[order[i]], columns, flips, row_flips[i], out[i])
    return np.int64(0)


_KERNELS = {2: _by_four, 4: _by_two}


def permute(rows, order, columns, flips, row_flips, out):
    """See `mergery.kernels.readable.permute`."""
    if out.size:
        _KERNELS.get(rows.itemsize, _singly)(rows, order, columns, flips, row_flips, out)
