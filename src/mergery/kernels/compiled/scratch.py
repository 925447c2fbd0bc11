"""What is needed to work on rows: arrays, and short keys of magnitudes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mergery.kernels.compiled.jit import inner
from mergery.kernels.compiled.patterns import MAGNITUDE, i16, i32, u32
from mergery.kernels.compiled.vectors import BOUNDS, EIGHT, PADDING, append, having

COARSE, FINE = 40, 125  # buckets by magnitude: all of them counted, or (a power of five) one found by search
MEMBERS = 128  # entries of a bucket that are compared with each other
LOWEST, LARGEST = i32(-32768), i32(MAGNITUDE)  # key and size
_LONGEST = 65536  # entries of a row that is given keys: places have 16 bits, too, and so have sums of them
_CUT = u32(12)  # bits of a magnitude's pattern that a key lacks; 65535 keys are 32 powers of two


class Scratch(NamedTuple):
    """Arrays to work on rows. They are longer than rows, as `vectors.PADDING` says: behind the last entry stand
    zeros, the largest sizes and keys, and no bucket."""

    values: Any  # float32
    sizes: Any  # int32: patterns of magnitudes
    coins: Any  # int32
    places: Any  # int8: buckets
    keys: Any  # int16: magnitudes, shortened
    listed: Any  # uint32: places of entries
    others: Any  # uint32
    inexact: Any  # int16
    counts: Any  # int32
    members: Any  # int32
    pairs: Any  # uint64 (2, n)
    tallies: Any  # int64 (4, 256)


@inner
def make_scratch(n):
    size = -(-n // PADDING) * PADDING
    scratch = Scratch(
        np.zeros(size, np.float32),
        np.empty(size, np.int32),
        np.empty(size, np.int32),
        np.empty(size, np.int8),
        np.empty(size, np.int16),
        np.empty(size + EIGHT, np.uint32),
        np.empty(size + EIGHT, np.uint32),
        np.empty(size, np.int16),
        np.empty(COARSE + BOUNDS, np.int32),
        np.empty(MEMBERS, np.int32),
        np.empty((2, n), np.uint64),
        np.empty((4, 256), np.int64),
    )
    scratch.sizes[n:] = LARGEST
    scratch.places[n:] = 127
    scratch.keys[n:] = 32767
    return scratch


@inner
def shorten(scratch, n):
    """Keys that order the magnitudes of a row, but for few that share one and differ; the keys of those are listed as
    inexact. Returns their number; -1 where they are many, where magnitudes are too far apart for keys, or the row too long."""
    sizes, keys, inexact = scratch.sizes, scratch.keys, scratch.inexact
    found = np.int64(0)
    if n > _LONGEST:
        return -1
    most = n // EIGHT + sizes.size - n  # what stands behind the row is found, too
    for e in range(0, sizes.size, EIGHT):
        found = append(scratch.others, found, having(sizes, e, i32(u32(1) << _CUT) - i32(1)), e)
        if found > most:
            return -1
    top, least = i32(0), LARGEST
    for e in range(n):
        top = max(top, sizes[e])
        least = min(least, sizes[e] if sizes[e] > 0 else LARGEST)
    floor = max(i32(0), i32(i32(top >> i32(_CUT)) - i32(65534)))
    if i32(least >> i32(_CUT)) <= floor:
        return -1
    for e in range(n):
        keys[e] = i16(i32(max(i32(sizes[e] >> i32(_CUT)), floor) - floor) + LOWEST)
    for c in range(found):
        inexact[c] = keys[scratch.others[c]]
    return found
