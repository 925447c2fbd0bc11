"""Singular values and vectors in float32 alone, right to first order, or none.

With x = P H, the polar factor and its other one, the eigenvectors V of H are the right singular vectors and U = P V the left
ones. Eigenvectors of x^T x would be known only as far as the squares of singular values differ; so it is as far as these do.

Were U and V exact, U^T x V would be diagonal. Its other entries say to first order how far vectors are turned against each
other: once they are turned back, and then they tell what is left, and what that does to functions of the singular values.
Where that is more than `MOST`, float32 does not hold the answer, and `Unsound` is raised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mergery.kernels.products import apart, towards_polar
from mergery.kernels.spectral import RANK
from mergery.kernels.symmetric import eigh, gram, length

MOST = 1e-5  # of the length of what is made: error that is let pass
TOLD = 5e-2  # of a vector's length: what it lacks of another up to here is known well enough to be given back
STRAIGHT = 2e-6  # length of u^T u - I for each column
NEAR = 4e-6  # of the largest singular value: as close to a bound, float32 does not say on which side it lies
NEXT = 32  # vectors on either side of a cut, at least, that are found anew,
SHARE = 16  # or this part of all
OWN = 1e-7  # of a vector's length: its own rounding
FAINT = 1e-5  # of the largest singular value: below it, u is not known


class Unsound(Exception):
    """Float32 does not hold the answer."""


@dataclass(frozen=True)
class Singular:
    """Singular values s (n,) of a matrix x (m, n), m >= n, largest first, vectors u (m, n) and v (n, n), nearly; `seen` (n, n)
    is u^T x v, and `beyond` (m, n) what of x v no u spans.
    """

    u: Tensor
    s: Tensor
    v: Tensor
    seen: Tensor
    beyond: Tensor

    def count(self, of: float, noise: float, top: int) -> int:
        """How many of the first `top` singular values are not numerically zero: see `mergery.kernels.spectral.svd`."""
        first = float(self.s[0])
        least = max(RANK * first, RANK * of, noise)
        s = self.s[:top]
        if not bool(((s - least).abs() > NEAR * first).all()):
            raise Unsound
        return int((s > least).sum())

    def settled(self, matrix: Tensor, count: int, error: float = 0.0) -> tuple[Singular, float]:
        """The same where the first vectors span what they should: those next to the cut are found anew in float64, and they and
        the others are turned as their residuals say; and how far the first may still be from that, or turned against their
        counterparts, `error` being the length of what rounding has added to the matrix.
        """
        n = len(self.s)
        width = max(NEXT, n // SHARE)
        first, last, kept = max(0, count - width), min(n, count + width), count - max(0, count - width)
        if count == n:
            first = n
        wide, u, v, s = matrix.double(), self.u.clone(), self.v.clone(), self.s.clone()
        near_u, near_v = (straight(each[:, first:last].double()) for each in (u, v))
        image = wide @ near_v
        seen = near_u.mT @ image
        values, turn = eigh(gram(seen))
        values = values.clamp(min=0.0).sqrt()
        near_v, image = near_v @ turn, image @ turn
        near_u = near_u @ ((seen @ turn) / values.where(values > 0.0, 1.0))
        of_u = (u.mT @ (image - near_u * values).float()).double()
        of_v = (v.mT @ (wide.mT @ near_u - near_v * values).float()).double()
        far, near = s.double().unsqueeze(-1), values
        gap = (far - near) * (far + near)
        lacking_u, lacking_v = ((near * of_u + far * of_v) / gap).float(), ((far * of_u + near * of_v) / gap).float()
        for vectors, close, lacking in ((u, near_u.float(), lacking_u), (v, near_v.float(), lacking_v)):
            head = close[:, :kept] - vectors[:, last:] @ lacking[last:, :kept]
            tail = close[:, kept:] - vectors[:, :first] @ lacking[:first, kept:]
            vectors[:, last:] += close[:, :kept] @ lacking[last:, :kept].mT
            vectors[:, :first] += close[:, kept:] @ lacking[:first, kept:].mT
            vectors[:, first:last] = torch.cat([head, tail], dim=-1)
        s[first:last] = values.float()
        check_straight(u[:, :count])
        rest_u, rest_v = (length(each[:first, last:]) for each in self.turns())
        rest = max(math.hypot(rest_u, length(self.lost()[:, :first])), rest_v)
        head = s[:count].unsqueeze(-1)
        within = head + s[:count]
        odd = length((self.seen - self.seen.mT)[:count, :count] / within)
        outside = length(1.0 / s[:count]) * math.sqrt(len(matrix) - n)
        across = math.hypot(length(1.0 / (head - s[count:])), length(1.0 / within), outside)
        given = error / math.sqrt(matrix.numel()) * across
        return Singular(u, s, v, self.seen, self.beyond), math.hypot(rest, odd, given, OWN * count**0.5)

    def tilt(self, count: int) -> Tensor:
        """By how much the first vectors (count, count) may be turned towards each other, which changes no sum of them."""
        of_u, of_v = self.turns()
        return of_u[:count, :count].abs().maximum(of_v[:count, :count].abs()).clamp(max=1.0)

    def function(self, level: Tensor) -> Tensor:
        """u diag(level) v^T (m, n), for levels (n,) in place of the singular values."""
        check_straight(self.u[:, level != 0.0])
        even, odd = 0.5 * (self.seen + self.seen.mT), 0.5 * (self.seen - self.seen.mT)
        rise, run = level.unsqueeze(-1) - level, self.s.unsqueeze(-1) - self.s
        whole = self.s.unsqueeze(-1) + self.s
        change = even * (rise / run.where(rise != 0.0, 1.0)).fill_diagonal_(0.0)
        change += odd * ((level.unsqueeze(-1) + level) / whole.where(whole > 0.0, 1.0))
        lost = self.lost() * level
        if not math.hypot(length(change), length(lost)) <= MOST * length(level):
            raise Unsound
        change.diagonal().add_(level)
        return lost.addmm_(self.u, change) @ self.v.mT

    def turns(self) -> tuple[Tensor, Tensor]:
        """What each vector u and v lacks of each other one (n, n), to first order; anything where values are equal."""
        a, b = self.s.unsqueeze(-1), self.s
        gap = ((a - b) * (a + b)).fill_diagonal_(math.inf)
        return (b * self.seen + a * self.seen.mT) / gap, (a * self.seen + b * self.seen.mT) / gap

    def lost(self) -> Tensor:
        """What vectors u (m, n) lack that no u spans."""
        there = self.s > FAINT * self.s[0]
        return self.beyond * (there / self.s.where(there, 1.0))

    def straightened(self, matrix: Tensor) -> Singular:
        """The same with vectors turned back against those from which they can be told."""
        of_u, of_v = self.turns()
        told = (of_u.abs() < TOLD) & (of_v.abs() < TOLD)
        u = self.u + self.u @ of_u.where(told, 0.0).mT + self.lost()
        v = self.v + self.v @ of_v.where(told, 0.0).mT
        return seen_by(matrix, straight(u), straight(v))


def singular(matrix: Tensor) -> Singular:
    """Of a matrix (m, n), m >= n, float32, not zero. Those below a few millionths of the largest are not known."""
    size = float(matrix.abs().max())
    matrix = matrix / size
    factor = towards_polar(matrix)
    root = factor.mT @ matrix
    if not bool(root.isfinite().all()):
        raise Unsound
    try:
        v = straight(torch.linalg.eigh(0.5 * (root + root.mT)).eigenvectors.flip(-1))
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        raise Unsound from None
    found = seen_by(matrix, factor @ v, v).straightened(matrix)
    return Singular(found.u, found.s * size, found.v, found.seen * size, found.beyond * size)


def seen_by(matrix: Tensor, u: Tensor, v: Tensor) -> Singular:
    """What a matrix (m, n) has along these vectors."""
    image = matrix @ v
    seen = u.mT @ image
    beyond = image.addmm_(u, seen, alpha=-1.0) if matrix.shape[-2] > matrix.shape[-1] else image.zero_()
    return Singular(u, seen.diagonal().clamp(min=0.0), v, seen, beyond)


def straight(vectors: Tensor) -> Tensor:
    """Columns (m, r) that are nearly orthonormal, once more."""
    return 1.5 * vectors - 0.5 * vectors @ gram(vectors)


def check_straight(u: Tensor) -> None:
    """Raise Unsound where columns (m, r) are not orthonormal."""
    if not apart(gram(u)) <= STRAIGHT * max(1, u.shape[-1]) ** 0.5:
        raise Unsound
