"""Products of small factors, merged without ever multiplying them out, in float64 torch.

**Core space** (arXiv 2509.17786). The left factors of all adapters span few columns, their right factors few rows; in
orthonormal bases of both, every adapter is a small core, and nothing is lost. What a method makes of the cores is the merged
adapter.

**A shared basis** (compress, then merge; arXiv 2606.03723). Where the merged adapter must have a rank below the sum of theirs,
the best bases of that rank for all of them together are found first (Tucker-2, by alternating), each adapter brought part of
the way to the mean length, so that small ones count. The cores in these bases are merged, and the result has that rank. To
merge and then cut keeps the large ones and destroys the small ones.

**Pico** (arXiv 2604.16826) damps the output directions into which all adapters crowd before they are merged, and gives what
the merge has made the mean length of the adapters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MEAN_SHARE = 0.75  # how far the lengths of adapters go to their mean, while bases are looked for: the paper's 1 - beta
TURNS = 50  # of the alternation, at most
STILL = 1e-10  # of what the bases hold: less gain than that is none


class Pair(NamedTuple):
    """A product: left (m, r) times right (r, n), float64. r may be 0."""

    left: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    @property
    def square(self) -> Tensor:
        """The squared length of the product."""
        return ((self.left.mT @ self.left) * (self.right @ self.right.mT)).sum().clamp(min=0.0)


class Cores(NamedTuple):
    """Adapters in common bases: adapter t is left @ cores[t] @ right, left (m, p) and right (q, n)."""

    left: Tensor
    right: Tensor
    cores: tuple[Tensor, ...]


def basis(columns: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first left singular vectors (m, count) of a matrix (m, n), at most min(m, n) of them; and all singular values."""
    q, r = torch.linalg.qr(columns)
    u, s, _ = torch.linalg.svd(r, full_matrices=False)
    return q @ u[:, :count], s


def core_space(pairs: Sequence[Pair], *, pico: bool = False) -> Cores:
    """All adapters in bases of all that they span: p and q are the sum of the ranks, or the side where that is less."""
    lefts, rights = torch.cat([pair.left for pair in pairs], dim=1), torch.cat([pair.right for pair in pairs]).mT
    left, s = basis(lefts, min(lefts.shape))
    right, _ = basis(rights, min(rights.shape))
    cores = [(left.mT @ pair.left) @ (pair.right @ right) for pair in pairs]
    if pico:
        energy = s.square()
        damped = 1.0 / (1.0 + (len(pairs) - 1) * energy / energy.sum().clamp(min=torch.finfo(torch.float64).tiny))
        cores = [damped[:, None] * core for core in cores]
    return Cores(left, right.mT, tuple(cores))


def shared_space(pairs: Sequence[Pair], rank: int, *, pico: bool = False) -> Cores:
    """All adapters in the bases of one rank that hold most of all of them: p and q are `rank`, or what they span, if less."""
    whole = core_space(pairs, pico=pico)
    lengths = [float(torch.linalg.matrix_norm(core)) for core in whole.cores]
    mean = sum(lengths) / len(lengths)
    wanted = [(1.0 - MEAN_SHARE) * length + MEAN_SHARE * mean for length in lengths]
    even = [core * (to / own) for core, own, to in zip(whole.cores, lengths, wanted, strict=True) if own > 0.0]
    p, q = min(rank, whole.left.shape[1]), min(rank, whole.right.shape[0])
    if not even:
        even = [whole.cores[0]]
    left, _ = _first(torch.cat(even, dim=1), p)
    right, _ = _first(torch.cat([core.mT for core in even], dim=1), q)
    held = 0.0
    for _ in range(TURNS):
        left, _ = _first(torch.cat([core @ right for core in even], dim=1), p)
        right, s = _first(torch.cat([core.mT @ left for core in even], dim=1), q)
        now = float(s[:q].square().sum())
        if now <= held * (1.0 + STILL):
            break
        held = now
    cores = tuple(left.mT @ core @ right for core in whole.cores)
    return Cores(whole.left @ left, right.mT @ whole.right, cores)


def _first(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first left singular vectors (m, count): `count` is at most m; and the singular values."""
    u, s, _ = torch.linalg.svd(matrix, full_matrices=True)
    return u[:, :count], s


def best(left: Tensor, core: Tensor, right: Tensor, rank: int) -> tuple[Pair, Tensor]:
    """The best product of `rank` for left @ core @ right, its factors of one size; and all singular values.

    `left` has orthonormal columns, `right` orthonormal rows.
    """
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    root = s[:rank].sqrt()
    return Pair(left @ (u[:, :rank] * root), (root[:, None] * vh[:rank]) @ right), s


def kept(pair: Pair, left: Tensor, right: Tensor) -> tuple[float, float]:
    """Squared length of a product, and of what of it lies in the columns of `left` and the rows of `right`."""
    if not pair.rank:
        return 0.0, 0.0
    (own, _), (theirs, _) = basis(left, min(left.shape)), basis(right.mT, min(right.shape))
    inside = (own.mT @ pair.left) @ (pair.right @ theirs)
    return float(pair.square), float(inside.square().sum())


def restored(pair: Pair, adapters: Sequence[Pair]) -> Pair:
    """A product with the mean length of those adapters that are not zero."""
    lengths = [length for each in adapters if (length := math.sqrt(each.square)) > 0.0]
    own = math.sqrt(pair.square)
    if not lengths or own == 0.0:
        return pair
    factor = math.sqrt(sum(lengths) / len(lengths) / own)
    return Pair(pair.left * factor, pair.right * factor)
