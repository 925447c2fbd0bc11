"""The kernels in plain torch: what the compiled ones mean, and what runs where numba is not installed.

Conventions of inputs, outputs and status: see `mergery.kernels`. Rows, and the outputs of maps, may also be uint8 tensors on
any device, where the arithmetic is then done: `mergery.kernels.device`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mergery.dtypes import BF16_IN_F32
from mergery.kernels import BLOCK, LANES, LAST_ROW
from mergery.kernels.random import uniform

Array = np.ndarray
Bytes = np.ndarray | Tensor  # uint8

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.float32)  # in the order of their codes
_CARRIERS = (np.int16, np.float16, np.float32, np.float64, np.float32)  # numpy has no bfloat16
_OVERFLOW = 1 << 62


# --- storage ------------------------------------------------------------------------------------------------


def _stored(row: Bytes, code: int, n: int) -> Tensor:
    dtype = _DTYPES[code]
    if isinstance(row, Tensor):
        return row[: n * dtype.itemsize].view(dtype)
    return torch.from_numpy(row[: n * dtype.itemsize].view(_CARRIERS[code])).view(dtype)


def _not_finite(values: Tensor) -> bool:
    """Whether there is a NaN, which passes through aminmax, or an infinity."""
    return len(values) > 0 and not all(extreme.isfinite() for extreme in values.aminmax())


def _decode(raw: Bytes, codes: Array, n: int) -> tuple[list[Tensor], int]:
    """Every row in float32, and the status."""
    rows = [_stored(row, int(code), n).to(torch.float32) for row, code in zip(raw, codes, strict=True)]
    status = 0
    for j, row in enumerate(rows):
        status |= int(_not_finite(row)) << min(j, LAST_ROW)
    return rows, status


def _vectors(raw: Bytes, codes: Array, n: int, has_base: int) -> tuple[Tensor | None, list[Tensor], int]:
    """The base, if any; what is merged: deltas, or models without a base; and the status."""
    rows, status = _decode(raw, codes, n)
    if not has_base:
        return None, rows, status
    base, *models = rows
    return base, [model - base for model in models], status


def _encode(values: Tensor, out: Bytes, code: int) -> int:
    """Write values, rounded to nearest even. Returns the status of the output."""
    rounded = values.to(torch.bfloat16 if code == BF16_IN_F32.code else _DTYPES[code]).to(_DTYPES[code])
    rounded[rounded.isnan()] = torch.nan
    _stored(out, code, values.numel()).copy_(rounded)
    return _OVERFLOW if _not_finite(rounded) else 0


# --- maps ---------------------------------------------------------------------------------------------------


def mix(raw: Bytes, codes: Array, n: int, has_base: int, coefficients: Array, out: Bytes, out_code: int) -> int:
    """Mix linearly: sum of c_i x_i, or base + sum of c_i (x_i - base); the sum starts from its first term.

    coefficients: float32 (rows, k). The n elements are that many equal rows, each with its own coefficients.
    """
    base, vectors, status = _vectors(raw, codes, n, has_base)
    rows = len(coefficients)
    columns = torch.from_numpy(coefficients).to(vectors[0].device).repeat_interleave(n // rows, dim=0).T
    total = columns[0] * vectors[0]
    for column, vector in zip(columns[1:], vectors[1:], strict=True):
        total = total + column * vector
    if base is not None:
        total = base + total
    return status | _encode(total, out, out_code)


def consensus(
    raw: Bytes,
    codes: Array,
    n: int,
    offset: int,
    keys: Array,
    weight: Array,
    least: Array,
    most: Array,
    probability: Array,
    gain: Array,
    random: int,
    elect: int,
    normalize: int,
    divisor: float,
    scale: float,
    out: Bytes,
    out_code: int,
) -> int:
    """Thin, weigh, elect and sum task vectors by element: `mergery.method.Consensus`. Row 0 is the base.

    offset: the first element's index in the tensor, by which coins are drawn.
    keys:   uint64 (k,), streams of `mergery.kernels.random`; like `probability`, read only where `random` is 1.
    weight, least, most, probability, gain: float32 (k,).

    An entry d of model i is kept where least_i <= |d| <= most_i and, with `random`, uniform < probability_i;
    then v = (d * gain_i) * weight_i, else v = 0. Without `elect` the total is the sum of v, and `normalize`
    divides it by `divisor`. With `elect` the positive v and the negative v are summed apart; the total is the
    positive sum where the two add up to more than zero, or to zero and `elect` is 1, else (-1) the negative one.
    `normalize` 1 divides it by the sum of the weights of the v on that side, or by 1 where that sum is 0;
    `normalize` 2, with `elect` only, takes the largest v of that side instead. `normalize` 3, with `elect` only, elects by
    the sums of d * gain_i, and the total is the sum of the v of that side. Sums start from 0 and go in model order. The
    output is base + scale * total.
    """
    (base, *models), status = _decode(raw, codes, n)
    rule = (weight, least, most, probability, gain, random, elect, normalize, divisor, scale)
    return status | _encode(base + agreed((model - base for model in models), base, offset, keys, *rule), out, out_code)


def agreed(
    deltas: Iterable[Tensor],
    like: Tensor,
    offset: int,
    keys: Sequence[int] | Array,
    weight: Array,
    least: Array,
    most: Array,
    probability: Array,
    gain: Array,
    random: int,
    elect: int,
    normalize: int,
    divisor: float,
    scale: float,
) -> Tensor:
    """What `consensus` adds to the base: float32 (n,), of deltas of that shape, as `like` is."""
    total, up, down, up_share, down_share, highest, lowest = like.new_zeros(7, *like.shape)
    for i, delta in enumerate(deltas):
        kept = kept_of(delta, least[i], most[i], keys[i], probability[i], offset, random)
        ballot = delta * float(gain[i])
        value = torch.where(kept, ballot * float(weight[i]), 0.0)
        if not elect:
            total += value
            continue
        if normalize == 3:
            ballot = torch.where(kept, ballot, 0.0)
            up_share += torch.where(ballot > 0, value, 0.0)
            down_share += torch.where(ballot < 0, value, 0.0)
            value = ballot
        up += torch.where(value > 0, value, 0.0)
        down += torch.where(value < 0, value, 0.0)
        if normalize == 1:
            up_share += torch.where(value > 0, float(weight[i]), 0.0)
            down_share += torch.where(value < 0, float(weight[i]), 0.0)
        elif normalize == 2:
            highest = torch.where(value > highest, value, highest)
            lowest = torch.where(value < lowest, value, lowest)
    if not elect:
        total = total / torch.full_like(total, divisor) if normalize == 1 else total
        return float(np.float32(scale)) * total
    vote = up + down
    positive = vote >= 0 if elect > 0 else vote > 0
    if normalize == 2:
        return float(np.float32(scale)) * torch.where(positive, highest, lowest)
    if normalize == 3:
        return float(np.float32(scale)) * torch.where(positive, up_share, down_share)
    total = torch.where(positive, up, down)
    if normalize == 1:
        share = torch.where(positive, up_share, down_share)
        total = total / torch.where(share == 0, 1.0, share)
    return float(np.float32(scale)) * total


def kept_of(delta: Tensor, least: float, most: float, key: int, probability: float, offset: int, random: int) -> Tensor:
    """Which entries of a delta (n,) survive thinning: see `consensus`."""
    size = delta.abs()
    kept = (size >= float(least)) & (size <= float(most))
    if random:
        kept &= uniform(int(key), offset, offset + len(delta), delta.device) < float(probability)
    return kept


def convert(row: Array, code: int, n: int, out: Array, out_code: int) -> int:
    """Write a stored row, uint8 (capacity,), in another type; in the same type the bytes stay as they are."""
    values = _stored(row, code, n)
    status = int(_not_finite(values.to(torch.float32)))
    if code == out_code:
        size = n * _DTYPES[code].itemsize
        out[:size] = row[:size]
        return status
    return status | _encode(values.to(torch.float32), out, out_code)


def permute(rows: Array, order: Array, columns: Array, flips: Array, row_flips: Array, out: Array) -> None:
    """Move elements, as bits: out[i, j] = rows[order[i], columns[j]] ^ flips[j] ^ row_flips[i].

    rows, flips, row_flips, out: unsigned integers of the elements' width; (any, any), (n,), (k,) and (k, n). order: int64 (k,),
    columns: uint32 (n,), both within `rows`.
    """
    for i in range(0, len(order), 64):  # some rows at once, as they stay in the cache
        some = slice(i, i + 64)
        np.bitwise_xor(np.take(rows[order[some]], columns, axis=1) ^ flips, row_flips[some, None], out=out[some])


# --- sums ---------------------------------------------------------------------------------------------------


def _lanes(vectors: list[Tensor], n: int) -> Tensor:
    """Float64 (BLOCK // LANES, blocks, vectors, LANES), filled up with zeros, which change no sum."""
    blocks = -(-n // BLOCK)
    padded = torch.zeros(len(vectors), blocks * BLOCK, dtype=torch.float64, device=vectors[0].device)
    for row, vector in zip(padded, vectors, strict=True):
        row[:n] = vector
    return padded.reshape(len(vectors), blocks, BLOCK // LANES, LANES).permute(2, 1, 0, 3)


def _total(terms: Iterable[Tensor]) -> Array:
    """Add up terms (..., LANES) in order, then one half of the lanes to the other, again and again."""
    lanes = torch.zeros((), dtype=torch.float64)
    for term in terms:
        lanes = lanes + term
    while lanes.shape[-1] > 1:
        lanes = lanes[..., : lanes.shape[-1] // 2] + lanes[..., lanes.shape[-1] // 2 :]
    return lanes[..., 0].cpu().numpy()


def gram(raw: Bytes, codes: Array, n: int, has_base: int, out: Array) -> int:
    """Inner products of the vectors: out, float64 (blocks, k, k), one matrix for each BLOCK elements.

    Products of float32 are exact in float64; within a block they are added in lanes (`mergery.kernels.LANES`).
    """
    _, vectors, status = _vectors(raw, codes, n, has_base)
    out[:] = _total(row[:, :, None] * row[:, None, :] for row in _lanes(vectors, n))
    return status


def l1_norms(
    raw: Bytes,
    codes: Array,
    n: int,
    offset: int,
    keys: Array,
    least: Array,
    most: Array,
    probability: Array,
    random: int,
    out: Array,
) -> int:
    """L1 norms of the deltas before and after thinning: out, float64 (blocks, k, 2), for each BLOCK elements.

    What is kept is what `consensus` keeps; the sums go in lanes, as in `gram`. NaN, of which the status tells, is left out.
    """
    _, deltas, status = _vectors(raw, codes, n, 1)
    sizes = []
    for i, delta in enumerate(deltas):
        kept = kept_of(delta, least[i], most[i], keys[i], probability[i], offset, random)
        sizes += [torch.where(delta.isnan(), 0.0, delta.abs()), torch.where(kept, delta.abs(), 0.0)]
    out[:] = _total(_lanes(sizes, n)).reshape(out.shape)
    return status


# --- counts -------------------------------------------------------------------------------------------------


def _patterns(vector: Tensor) -> Tensor:
    """The float32 patterns of the magnitudes: integers that sort as the magnitudes do."""
    return vector.abs().view(torch.int32).to(torch.int64)


def count_high(raw: Bytes, codes: Array, n: int, has_base: int, counts: Array) -> int:
    """Count the magnitudes of each vector by upper half of their pattern: counts, int64 (k, 32768), grow."""
    _, vectors, status = _vectors(raw, codes, n, has_base)
    for vector, row in zip(vectors, counts, strict=True):
        row += torch.bincount(_patterns(vector) >> 16, minlength=len(row)).cpu().numpy()
    return status


def count_low(raw: Bytes, codes: Array, n: int, has_base: int, first: Array, counts: Array, above: Array) -> int:
    """Count the magnitudes of each vector that lie in windows of patterns, and those that lie above.

    first:  int64 (k, windows), the upper half at which a window begins; a negative one is skipped.
    counts: int64 (k, windows, width); grows at [i, w, p - first * 65536] for each pattern p inside.
    above:  int64 (k, windows); grows by the number of patterns beyond the window.
    """
    _, vectors, status = _vectors(raw, codes, n, has_base)
    width = counts.shape[-1]
    for i, vector in enumerate(vectors):
        patterns = _patterns(vector)
        for w in np.flatnonzero(first[i] >= 0):
            places = patterns - (int(first[i, w]) << 16)
            inside = places[(places >= 0) & (places < width)]
            counts[i, w] += torch.bincount(inside, minlength=width).cpu().numpy()
            above[i, w] += int((places >= width).sum())
    return status
