"""Which entries of a task vector are kept: by magnitude and by keyed coins."""

from __future__ import annotations

import numpy as np

from mergery.kernels import random
from mergery.kernels.compiled.jit import inner

u32, _u64 = np.uint32, np.uint64
_FIRST, _SECOND, _THIRD, _FAR = u32(random.FIRST), u32(random.SECOND), u32(random.THIRD), u32(random.FAR)
_WORD = _u64(0xFFFFFFFF)


@inner
def coin(index, low, high):
    """The 24-bit number of one element: `mergery.kernels.random.uniform` times 2**24, as int32."""
    word = u32(u32(index) + low)
    word = u32(u32(u32(word ^ u32(word >> u32(17))) * _FIRST) ^ high)
    word = u32(u32(word ^ u32(word >> u32(11))) * _SECOND)
    word = u32(u32(word ^ u32(word >> u32(15))) * _THIRD)
    return np.int32(u32(word ^ u32(word >> u32(14))) >> u32(8))


@inner
def words_of(key, first):
    """The two words under which elements of a stream are hashed, from element `first` to the next multiple of 2**32."""
    far = u32(_u64(first) >> _u64(32))
    return u32(_u64(key) & _WORD), u32(u32(_u64(key) >> _u64(32)) + u32(far * _FAR))


@inner
def _drop(values, first, low, high, limit):
    for e in range(values.size):
        values[e] = values[e] if coin(u32(first + u32(e)), low, high) < limit else np.float32(0)


@inner
def drop(values, key, first, limit):
    """Zero the entries, from element `first` of the tensor on, whose coin is not below the limit."""
    near = min(values.size, np.int64((_u64(1) << _u64(32)) - (_u64(first) & _WORD)))
    low, high = words_of(key, first)
    _drop(values[:near], u32(_u64(first) & _WORD), low, high, limit)
    if near < values.size:
        low, high = words_of(key, first + near)
        _drop(values[near:], u32(0), low, high, limit)


@inner
def threshold(probability):
    """The number of 24-bit coins u with u * 2**-24 < probability."""
    return np.int32(np.ceil(np.float64(probability) * 2.0**24))


@inner
def within(value, least, most):
    """A value whose magnitude lies in [least, most], else 0. A bound that is None is none, and costs nothing."""
    if least is None:
        return value
    size = abs(value)
    if most is None:
        return value if size >= least else np.float32(0)
    return value if (size >= least) & (size <= most) else np.float32(0)


@inner
def _fill(coins, first, low, high):
    for e in range(coins.size):
        coins[e] = coin(u32(first + u32(e)), low, high)


@inner
def fill_coins(coins, key, first):
    """The 24-bit numbers of the elements from `first` of the tensor on: int32."""
    near = min(coins.size, np.int64((_u64(1) << _u64(32)) - (_u64(first) & _WORD)))
    low, high = words_of(key, first)
    _fill(coins[:near], u32(_u64(first) & _WORD), low, high)
    if near < coins.size:
        low, high = words_of(key, first + near)
        _fill(coins[near:], u32(0), low, high)
