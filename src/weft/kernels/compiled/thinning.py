"""Which entries of a task vector are kept: by magnitude and by keyed coins."""

from __future__ import annotations

import numpy as np

from weft.kernels import random
from weft.kernels.compiled.jit import inner

_u64 = np.uint64
_GOLDEN, _FIRST, _SECOND = _u64(random.GOLDEN), _u64(random.FIRST), _u64(random.SECOND)


@inner
def coins(key, first, words):
    """Fill `words` with the stream's pairs of 24-bit numbers, from element 2 * first on.

    Seen as int32, `words` then holds `weft.kernels.random.uniform` times 2**24, in element order.
    """
    origin = _u64(first) * _GOLDEN + key
    for w in range(words.size):
        word = origin + _u64(w) * _GOLDEN
        word = (word ^ (word >> _u64(30))) * _FIRST
        word = (word ^ (word >> _u64(27))) * _SECOND
        word = word ^ (word >> _u64(31))
        words[w] = (word >> _u64(40)) | ((word << _u64(24)) & _u64(0xFFFFFF00000000))


@inner
def threshold(probability):
    """The number of 24-bit coins u with u * 2**-24 < probability."""
    return np.int32(np.ceil(np.float64(probability) * 2.0**24))


@inner
def thin(values, coin, least, most, limit, gain, weight):
    """Multiply what is kept by gain, then by weight, and zero the rest.

    Kept is what lies in [least, most] in magnitude and has a coin below the limit.
    """
    for e in range(values.size):
        value = values[e]
        size = abs(value)
        kept = (size >= least) & (size <= most) & (coin[e] < limit)
        values[e] = (value * gain) * weight if kept else np.float32(0)
