"""Linear algebra of task vectors: singular values, polar factors and low-rank factors, in float64 torch.

**One route.** A thin SVD comes from the eigenvectors of the smaller Gram matrix, A^T A or A A^T, in float64: less than the
time of the direct one in float32, and more exact. Inputs hold 24 bits, so that their products are exact in 53 up to the
sum's rounding: relative to the largest singular value s_1, singular values are right to 1e-15 (s_1 / s), and the
reconstruction to 1e-10. Where a kept singular value lies below 1e-4 s_1, the singular vectors on the longer side, which are
divided by it, are made orthonormal once more (to better than 1e-8). Where not all vectors of a large matrix are wanted,
`mergery.kernels.leading` finds them in less time.

**Rank.** A singular value below `RANK` s_1 counts as zero, and its singular vectors *are* zeros. No direction that the data
do not have enters a product: duplicate, zero and low-rank task vectors need no special case. Where inputs are stored in 16
bits, what their rounding may have made by itself counts as zero too (`noise_of`): an adapter that was merged into bfloat16
weights is a matrix of low rank plus white noise, whose many directions no task knows.

All functions take matrices (..., m, n) and work on each by itself; many small matrices go through one call. One thread
makes the same bytes from the same input; see `mergery.kernels.threads`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mergery.kernels.leading import leading
from mergery.kernels.nearest import halves
from mergery.kernels.symmetric import eigh, gram, spread

RANK = 1e-6  # of the largest singular value: smaller ones are zero
FAINT = 1e-4  # of the largest singular value: below it, vectors are made orthonormal once more
EDGE = 1.05  # of the largest singular value of rounding, as theory has it: what lies below may be rounding
STEEP = 1e-5  # of the largest singular value: below it, the inverse of a square root is not formed
PIECE = 1 << 16  # entries, of which sums of products are made at once
TIE = 1e-9  # of a magnitude: what lies closer is the same number but for rounding


def svd(
    matrix: Tensor, top: int | None = None, *, of: Tensor | float = 0.0, noise: Tensor | float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values, largest first: float64 u (..., m, r), s (..., r), vh (..., r, n).

    r is min(m, n), or `top` where that is less. What is numerically zero is exactly zero, vectors included. Of a matrix that
    is a difference, `of` is the size (...) of what it is a difference of: then rounding is told from what is left. `noise`
    (...) is the largest singular value that rounding of the inputs may have by itself, see `noise_of`.
    """
    size, vectors = spectrum(smaller(matrix), top)
    return triplets(matrix, size, vectors, top, of=of, noise=noise)


def basis(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values (..., r), largest first, and vectors (..., r, r) of the smaller side, those of rounding among them."""
    return spectrum(smaller(matrix))


def smaller(matrix: Tensor) -> Tensor:
    """The smaller Gram matrix, float64."""
    wide = matrix.double()
    return gram(wide if wide.shape[-2] >= wide.shape[-1] else wide.mT)


def spectrum(squares: Tensor, top: int | None = None) -> tuple[Tensor, Tensor]:
    """The roots of eigenvalues (..., r), largest first, and eigenvectors (..., n, r): all, or at least the first `top`."""
    found = None if top is None else leading(squares, top)
    values, vectors = eigh(squares) if found is None else found
    return values.clamp(min=0.0).sqrt(), vectors


def triplets(
    matrix: Tensor,
    size: Tensor,
    vectors: Tensor,
    top: int | None = None,
    *,
    of: Tensor | float = 0.0,
    noise: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The thin SVD as `svd` gives it, of a matrix with this `basis`."""
    wide = matrix.double()
    tall = wide if wide.shape[-2] >= wide.shape[-1] else wide.mT
    count = vectors.shape[-1] if top is None else min(top, vectors.shape[-1])
    kept = spanned(size, of=of, noise=noise)[..., :count]
    right = vectors[..., :count] * kept.unsqueeze(-2)
    left, s = shortened(tall @ right, kept)
    return (left, s, right.mT) if tall is wide else (right, s, left.mT)


def shortened(images: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Images (..., m, r) of singular vectors, brought to length one in place where kept, and their lengths (..., r)."""
    s = torch.linalg.vector_norm(images, dim=-2)
    images /= s.where(kept, 1.0).unsqueeze(-2)
    if bool((kept & (s < FAINT * s[..., :1])).any()):
        bent = images @ gram(images)
        images.mul_(1.5).sub_(bent.mul_(0.5))
    return images, s


def spanned(size: Tensor, *, of: Tensor | float = 0.0, noise: Tensor | float = 0.0) -> Tensor:
    """Which singular values (..., r), largest first, are not numerically zero; see `svd`."""
    bounds = (torch.as_tensor(each, dtype=torch.float64, device=size.device) for each in (of, noise))
    least = torch.maximum(RANK * next(bounds), next(bounds)).unsqueeze(-1)
    return (size > RANK * size[..., :1]) & (size > least)


def noise_of(deltas: Sequence[Tensor | Factored], deviations: Sequence[Tensor]) -> list[Tensor]:
    """The largest singular value that rounding may have of each task vector, (...), from the standard deviation of an entry's
    rounding (`mergery.method.Noise`).

    That of an m x n matrix of independent errors lies at deviation (sqrt(m) + sqrt(n)), closely. A task vector that is no
    longer than twice that in every direction is not told from its rounding, and is taken as it is.
    """
    bounds = []
    for delta, deviation in zip(deltas, deviations, strict=True):
        if isinstance(delta, Factored) or not bool(deviation.any()):
            bounds.append(deviation)
            continue
        m, n = delta.shape[-2:]
        apart = norm(delta)[..., 0, 0] > 2.0 * EDGE * deviation * (m * n) ** 0.5
        bounds.append(EDGE * deviation * (m**0.5 + n**0.5) * apart)
    return bounds


def noise_of_sum(noises: Sequence[Tensor], weight: Any) -> Tensor:
    """The same of a weighted sum, whose terms were rounded independently of each other."""
    total = noises[0] * 0.0
    for noise, factor in zip(noises, weight, strict=True):
        total = total + (noise * float(factor)).square()
    return total.sqrt()


def polar(matrix: Tensor, *, of: Tensor | float = 0.0, single: bool = False) -> Tensor:
    """The orthogonal polar factor u vh of the thin SVD; on what the matrix does not span it is zero (pseudo-polar).

    With `single` in float32, to a few millionths, where that takes less time.
    """
    tall = matrix if matrix.shape[-2] >= matrix.shape[-1] else matrix.mT
    found = halves(tall, RANK) if single else None
    if found is None:
        return levelled(matrix, of=of)[0]
    return found.factor(tall) if tall is matrix else found.factor(tall).mT


def levelled(matrix: Tensor, *, of: Tensor | float = 0.0, noise: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """The polar factor, and the singular values (..., r), of which those that are numerically zero are exactly zero.

    It is x (x^T x)^(-1/2): one product with the eigenvectors' half power, but for kept singular values so small that its
    entries would cancel.
    """
    turn, s, _ = turned(matrix, of=of, noise=noise)
    return turn, s


def parted(matrix: Tensor, *, single: bool = False) -> tuple[Tensor, Tensor]:
    """The polar factor of a matrix x (..., m, n), and the other one, (x^T x)^(1/2) (..., n, n): their product is x.

    With `single` in float32, to a few millionths, where that takes less time.
    """
    found = halves(matrix, RANK) if single and matrix.shape[-2] >= matrix.shape[-1] else None
    if found is not None:
        return found.factor(matrix), found.root()
    turn, s, vectors = turned(matrix)
    tall = matrix.shape[-2] >= matrix.shape[-1]
    return turn, spread(vectors, s) if tall else turn.mT @ matrix.double()


def turned(matrix: Tensor, *, of: Tensor | float = 0.0, noise: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """What `levelled` gives, and the vectors of the smaller side (..., r, r)."""
    s, vectors = basis(matrix)
    kept = spanned(s, of=of, noise=noise)
    steep = kept & (s < STEEP * s[..., :1])
    few = matrix.ndim == 2 and 4 * int(steep.sum()) <= len(s)
    if not few and bool(steep.any()):
        u, s, vh = triplets(matrix, s, vectors, of=of, noise=noise)
        return u @ vh, s, vectors
    firm = kept & ~steep
    half, wide, s = spread(vectors, firm / s.where(firm, 1.0)), matrix.double(), s * kept
    turn = wide @ half if wide.shape[-2] >= wide.shape[-1] else half @ wide
    if few and bool(steep.any()):  # few directions are made apart, at right angles to the others
        tall, long = (wide, turn) if wide.shape[-2] >= wide.shape[-1] else (wide.mT, turn.mT)
        images = tall @ vectors[:, steep]
        u, s[steep], vh = svd(images - long @ (long.mT @ images))
        long += u @ vh @ vectors[:, steep].mT
    return turn, s, vectors


def rank(s: Tensor) -> Tensor:
    """How many singular values of `svd` are not zero: int64 (...)."""
    return (s > 0.0).sum(-1)


def cleared(matrix: Tensor) -> Tensor:
    """Entries (..., m, n) below `RANK` of the largest magnitude are zero, so that rounding takes no part in elections."""
    size = matrix.abs()
    return matrix * (size > RANK * size.amax((-2, -1), keepdim=True)) if matrix.numel() else matrix


def largest(matrix: Tensor, share: float, among: Tensor) -> Tensor:
    """The entries (..., m, n) of the largest magnitudes, zero elsewhere: a share of `among` (...), at least one if any.

    Entries that tie with the last are kept, those too that rounding keeps from it.
    """
    if share == 0.0:
        return matrix * 0.0
    keep = (share * among).long().clamp(min=1)
    flat = matrix.abs().flatten(-2)
    cut = flat.topk(min(int(keep.max()), flat.shape[-1]), dim=-1).values.gather(-1, keep.unsqueeze(-1) - 1)
    return matrix * (flat >= (1.0 - TIE) * cut).view_as(matrix)


def flat_level(s: Tensor) -> Tensor:
    """The mean of the singular values that are not zero, (..., 1); 0 where all are."""
    return s.sum(-1, keepdim=True) / rank(s).clamp(min=1).unsqueeze(-1)


def norm(matrix: Tensor) -> Tensor:
    """The Frobenius norm in float64, (..., 1, 1)."""
    if matrix.shape[-2] * matrix.shape[-1] > PIECE:
        return inner(matrix, matrix).sqrt()
    return torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True, dtype=torch.float64)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The sum of the products of entries in float64, (..., 1, 1); of large matrices some rows at a time, which is faster."""
    found = None
    rows = max(1, PIECE // max(1, a.shape[-1]))
    for first in range(0, max(1, a.shape[-2]), rows):
        left = a[..., first : first + rows, :].double().flatten(-2)
        right = left if b is a else b[..., first : first + rows, :].double().flatten(-2)
        part = torch.linalg.vecdot(left, right)
        found = part if found is None else found + part
    assert found is not None
    return found[..., None, None]


# --- low-rank factors ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Factored:
    """A matrix given as a product: left (m, r) times right (r, n), as adapters store it (B and A)."""

    left: Tensor
    right: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return (self.left.shape[-2], self.right.shape[-1])

    @property
    def rank(self) -> int:
        """The number of columns of the left factor; the product's own rank may be less."""
        return self.left.shape[-1]

    def dense(self) -> Tensor:
        """The product, float32 (m, n)."""
        return (self.left.double() @ self.right.double()).float()

    def __mul__(self, factor: float) -> Factored:
        return Factored(self.left * factor, self.right)


@dataclass(frozen=True)
class Frame:
    """Orthonormal bases, (m, p) and (n, q), in which some matrices are small cores (p, q); None is the identity.

    What a method makes of task vectors that only turn when they are turned, it can make of their cores. `shape` is that of
    the matrices themselves, on which ranks and counts depend.
    """

    shape: tuple[int, int]
    left: Tensor | None = None
    right: Tensor | None = None

    @property
    def smaller(self) -> int:
        """Singular values of a matrix of full size."""
        return min(self.shape)

    def lift(self, left: Tensor, right: Tensor) -> Tensor | Factored:
        """The product of a left (..., p, r) and a right (..., r, q) factor, of full size: dense, or factored in a frame."""
        if self.left is None and self.right is None:
            return left @ right
        left = left if self.left is None else self.left @ left.double()
        return Factored(left, right if self.right is None else right.double() @ self.right.mT)

    def restore(self, core: Tensor) -> Tensor | Factored:
        """The matrix of a core (..., p, q), of full size: the core itself, or factored in a frame."""
        if self.right is None:
            return core if self.left is None else Factored(self.left, core)
        return Factored(core if self.left is None else self.left @ core.double(), self.right.mT)

    def full(self, core: Tensor) -> Tensor:
        """The matrix (..., m, n) of a core, float64."""
        wide = core.double() if self.left is None else self.left @ core.double()
        return wide if self.right is None else wide @ self.right.mT

    def ones(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of ones, (p, 1) and (q, 1), where `like` stands; exact where `framed` was told to keep them."""

        def seen(size: int, basis: Tensor | None) -> Tensor:
            full = torch.ones(size, 1, dtype=torch.float64, device=like.device)
            return full if basis is None else basis.mT @ full

        return seen(self.shape[0], self.left), seen(self.shape[1], self.right)


def framed(
    deltas: Sequence[Tensor | Factored], *, one_sided: bool = False, ones: bool = False
) -> tuple[list[Tensor], Frame]:
    """Task vectors as cores and the frame that they stand in.

    Dense ones are their own cores. Factored ones whose ranks add up to less than the smaller side get bases of their joint
    columns and rows, so that all that follows costs the rank; with `one_sided` of the columns only; with `ones` the bases also
    span the vectors of ones. The rest are multiplied out.
    """
    factored = [delta for delta in deltas if isinstance(delta, Factored)]
    shape = (int(deltas[0].shape[-2]), int(deltas[0].shape[-1]))
    if len(factored) < len(deltas) or sum(delta.rank for delta in factored) + ones >= min(shape):
        return dense(deltas), Frame(shape)
    lefts = [delta.left.double() for delta in factored]
    rights = [delta.right.double() for delta in factored]
    extra = [torch.ones(size, int(ones), dtype=torch.float64, device=lefts[0].device) for size in shape]
    left = torch.linalg.qr(torch.cat([*lefts, extra[0]], dim=-1)).Q
    if one_sided:
        return [(left.mT @ b) @ a for b, a in zip(lefts, rights, strict=True)], Frame(shape, left)
    right = torch.linalg.qr(torch.cat([*(a.mT for a in rights), extra[1]], dim=-1)).Q
    cores = [(left.mT @ b) @ (a @ right) for b, a in zip(lefts, rights, strict=True)]
    return cores, Frame(shape, left, right)


def at_most(count: int, delta: Tensor | Factored) -> int:
    """How many singular triplets of a task vector are looked for, where so many would be taken: no more than it has."""
    return max(1, min(count, delta.rank)) if isinstance(delta, Factored) else count


def dense(deltas: Sequence[Tensor | Factored]) -> list[Tensor]:
    """Task vectors, those that are factored multiplied out."""
    return [delta.dense() if isinstance(delta, Factored) else delta for delta in deltas]


def total(deltas: Sequence[Tensor], weight: Any) -> Tensor:
    """The weighted sum, in the order of the models, float64."""
    result = deltas[0].to(torch.float64, copy=True)
    result *= float(weight[0])
    for delta, factor in zip(deltas[1:], weight[1:], strict=True):
        result += delta if float(factor) == 1.0 else delta.double() * float(factor)
    return result
