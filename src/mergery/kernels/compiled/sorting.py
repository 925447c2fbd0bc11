"""Sorting a row by magnitude, equal ones in their order."""

from __future__ import annotations

import numpy as np

from mergery.kernels.compiled.jit import inner
from mergery.kernels.compiled.patterns import MAGNITUDE, bits, i32, u32, u64
from mergery.kernels.compiled.scratch import LOWEST, shorten

_BYTE = u64(255)


@inner
def _pack(values, flip, pairs, counts):
    """Patterns of magnitudes with their places behind them, and how often each byte of the patterns occurs."""
    counts[:] = 0
    for e in range(values.size):
        pattern = u32(u32(bits(values[e]) & MAGNITUDE) ^ flip)
        pairs[e] = (u64(pattern) << u64(32)) | u64(e)
        counts[0, pattern & u32(255)] += 1
        counts[1, (pattern >> u32(8)) & u32(255)] += 1
        counts[2, (pattern >> u32(16)) & u32(255)] += 1
        counts[3, pattern >> u32(24)] += 1


@inner
def _distribute(source, target, starts, shift):
    """Order words by one of their bytes. starts: how often each value occurs."""
    total = 0
    for value in range(256):
        here = starts[value]
        starts[value] = total
        total += here
    for e in range(source.size):
        pair = source[e]
        byte = np.int64((pair >> shift) & _BYTE)
        target[starts[byte]] = pair
        starts[byte] += 1


@inner
def sort_magnitudes(values, falling, pairs, spare, counts):
    """Places in the row by rising or falling magnitude, equal ones in their order: the lower halves of the result's words.

    pairs, spare: uint64 (n,); counts: int64 (4, 256). Sorts byte by byte, and passes over bytes that are all equal.
    """
    _pack(values, MAGNITUDE if falling else u32(0), pairs, counts)
    n = values.size
    for byte in range(4):
        starts, shift = counts[byte], u64(32 + 8 * byte)
        if starts[np.int64((pairs[0] >> shift) & _BYTE)] == n:
            continue
        _distribute(pairs, spare, starts, shift)
        pairs, spare = spare, pairs
    return pairs


@inner
def _sort_keys(scratch, n):
    """Places in the row by rising key, equal ones in their order: the lower halves of the result's words."""
    keys, words, spare, counts = scratch.keys, scratch.listed, scratch.others, scratch.tallies
    counts[:2] = 0
    for e in range(n):
        key = u32(i32(keys[e]) - LOWEST)
        words[e] = u32(u32(key << u32(16)) | u32(e))
        counts[0, key & u32(255)] += 1
        counts[1, key >> u32(8)] += 1
    for byte in range(2):
        _distribute(words[:n], spare, counts[byte], u64(16 + 8 * byte))
        words, spare = spare, words
    return words


@inner
def _order_run(words, n, key, sizes):
    """Put the entries of one key, which differ, in the order of their magnitudes."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if u32(words[middle] >> u32(16)) < key:
            low = middle + 1
        else:
            high = middle
    place = low + 1
    while place < n and u32(words[place] >> u32(16)) == key:
        word, to = words[place], place
        size = sizes[word & u32(0xFFFF)]
        while to > low and sizes[words[to - 1] & u32(0xFFFF)] > size:
            words[to] = words[to - 1]
            to -= 1
        words[to] = word
        place += 1


@inner
def assign(scratch, steps, given):
    """Give each entry of a row, scratch.values, what its rank by rising magnitude has: given[e] = steps[rank of e]."""
    n = given.size
    values, sizes = scratch.values, scratch.sizes
    for e in range(n):
        sizes[e] = i32(bits(values[e]) & MAGNITUDE)
    inexact = shorten(scratch, n)
    if inexact < 0:
        order = sort_magnitudes(values[:n], False, scratch.pairs[0], scratch.pairs[1], scratch.tallies)
        for rank in range(n):
            given[np.int64(order[rank] & u64(0xFFFFFFFF))] = steps[rank]
        return
    words = _sort_keys(scratch, n)
    for c in range(inexact):
        _order_run(words, n, u32(i32(scratch.inexact[c]) - LOWEST), sizes)
    for rank in range(n):
        given[words[rank] & u32(0xFFFF)] = steps[rank]
