"""The linear algebra of task vectors in two ways: in float64, and in float32 on devices that are slow in float64.

A method says what it makes once, of a way (`Way`). Float32 comes first where it pays; where it does not hold the answer to
`CLOSE` of the merged task vector, everything is made anew in float64. On processors there is the one way, that of
`mergery.kernels.spectral`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mergery.kernels import spectral
from mergery.kernels.products import gain, polar
from mergery.kernels.rates import slow_in_float64, whole_float32
from mergery.kernels.remainders import ahead, remainder, shared_left
from mergery.kernels.single import Unsound, singular
from mergery.kernels.symmetric import LARGE, gram

CLOSE = 1e-5  # of the length of what is made: what float32 may change
UNTOLD = 30.0  # times a bound of rounding in float64: from there on, float32 has not made it
FINE = 2e-6  # of the largest entry: the rounding of entries whose directions are known
ROUNDED = 2.0**-22  # of the length of what is multiplied: the rounding of a product in float32
SMALL = 4  # of matrices with so many times fewer columns than the task vectors, float64 costs little
Triplets = tuple[Tensor, Tensor, Tensor]


class Way(Protocol):
    """What methods ask of matrices (..., m, n); `of` and `noise` (...) as `mergery.kernels.spectral.svd` has them."""

    def svd(
        self, matrix: Tensor, top: int, *, of: Tensor | float = 0.0, noise: Tensor | float = 0.0, products: int = 0
    ) -> Triplets:
        """u (..., m, r), s (..., r) and vh (..., r, n) of the first singular values; what is numerically zero is zero.
        `products` says how many in a row have made the matrix of what it is `of`.
        """
        ...

    def opened(self, matrix: Tensor, top: int, *, noise: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same, and the other vectors of the smaller side."""
        ...

    def common(self, matrix: Tensor, top: int, *, noise: Tensor | float = 0.0) -> Triplets:
        """`svd` of m >= n, for `beyond`: the first singular vectors that several matrices share."""
        ...

    def ahead(self, levels: Tensor, right: Tensor) -> Tensor | None:
        """What `beyond` may make use of where matrices add up to one that has these (..., c) and (..., c, n) of `common`."""
        ...

    def beyond(
        self,
        shared: Tensor,
        matrix: Tensor,
        top: int,
        *,
        of: Tensor,
        noise: Tensor,
        still: Tensor | None = None,
        last: bool = False,
    ) -> Triplets:
        """`svd` of what orthonormal columns U (..., m, c) leave of a matrix, (I - U U^T) x. `still` is what is `ahead` of this
        one of several, and changed in place; `last` says that none follows.
        """
        ...

    def recast(self, matrix: Tensor, levels: Callable[[Tensor, Tensor, Tensor], Tensor], *, noise: Tensor) -> Tensor:
        """u diag(levels(u, s, vh)) vh, of levels (..., r) that are zero where s is."""
        ...

    def flat(self, matrix: Tensor, *, noise: Tensor) -> Tensor:
        """u vh times the mean of the singular values that are not zero."""
        ...

    def polar(self, matrix: Tensor) -> Tensor:
        """u vh."""
        ...

    def parted(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """u vh, and (x^T x)^(1/2), of m >= n."""
        ...

    def check_sizes(self, size: Tensor, least: Tensor) -> None:
        """Raise Unsound where lengths (...) that are not zero are so near a bound that rounding may have made them."""
        ...

    def check_choice(self, matrix: Tensor, kept: Tensor) -> None:
        """Raise Unsound where rounding may have had a say in which entries (..., n, n), of a matrix in the directions of all
        tasks in their order, are kept as the largest.
        """
        ...

    def check_vote(self, terms: Sequence[Tensor], weight: Any) -> None:
        """Raise Unsound where it may have had a say in the sign of the weighted sum of terms (..., n, n) that disagree."""
        ...


class InFloat64:
    """As `mergery.kernels.spectral` has it; with `single` polar factors are those of float32 where that is faster."""

    def __init__(self, *, single: bool) -> None:
        self.single = single

    def svd(
        self, matrix: Tensor, top: int, *, of: Tensor | float = 0.0, noise: Tensor | float = 0.0, products: int = 0
    ) -> Triplets:
        return spectral.svd(matrix, top, of=of, noise=noise)

    def opened(self, matrix: Tensor, top: int, *, noise: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size, vectors = spectral.basis(matrix)
        return *spectral.triplets(matrix, size, vectors, top, noise=noise), vectors[..., top:]

    def common(self, matrix: Tensor, top: int, *, noise: Tensor | float = 0.0) -> Triplets:
        size, vectors = spectral.spectrum(spectral.smaller(matrix), top)
        if self.single and bool(spectral.spanned(size, noise=noise)[..., :top].all()):
            right, s = vectors[..., :top], size[..., :top]
            left = shared_left(matrix, right, s)
            if left is not None:
                return left, s, right.mT
        return spectral.triplets(matrix, size, vectors, top, noise=noise)

    def ahead(self, levels: Tensor, right: Tensor) -> Tensor | None:
        return ahead(levels, right) if self.single and right.ndim == 2 else None

    def beyond(
        self,
        shared: Tensor,
        matrix: Tensor,
        top: int,
        *,
        of: Tensor,
        noise: Tensor,
        still: Tensor | None = None,
        last: bool = False,
    ) -> Triplets:
        if self.single:
            least = max(float(noise.max()), spectral.RANK * float(of.max()))
            found = remainder(shared, matrix, top, least, still=still, last=last)
            if found is not None:
                return found
        shared, matrix = shared.double(), matrix.double()
        if matrix.shape[-2] < matrix.shape[-1]:
            return spectral.svd(matrix - shared @ (shared.mT @ matrix), top, of=of, noise=noise)
        seen = shared.mT @ matrix  # x^T x - (U^T x)^T (U^T x) is the Gram matrix of what is left, which is never formed
        size, vectors = spectral.spectrum(gram(matrix) - gram(seen), top)
        kept = spectral.spanned(size, of=of, noise=noise)[..., :top]
        right = vectors[..., :top] * kept.unsqueeze(-2)
        left, s = spectral.shortened(matrix @ right - shared @ (seen @ right), kept)
        return left, s, right.mT

    def recast(self, matrix: Tensor, levels: Callable[[Tensor, Tensor, Tensor], Tensor], *, noise: Tensor) -> Tensor:
        u, s, vh = spectral.svd(matrix, noise=noise)
        return u * levels(u, s, vh).unsqueeze(-2) @ vh

    def flat(self, matrix: Tensor, *, noise: Tensor) -> Tensor:
        turn, s = spectral.levelled(matrix, noise=noise)
        turn *= spectral.flat_level(s).unsqueeze(-2)
        return turn

    def polar(self, matrix: Tensor) -> Tensor:
        return spectral.polar(matrix, single=self.single)

    def parted(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        return spectral.parted(matrix, single=self.single)

    def check_sizes(self, size: Tensor, least: Tensor) -> None:
        pass

    def check_choice(self, matrix: Tensor, kept: Tensor) -> None:
        pass

    def check_vote(self, terms: Sequence[Tensor], weight: Any) -> None:
        pass


class InFloat32:
    """By products, and eigenvectors in float32. Each call raises `Unsound` where that does not hold what is asked for; `turned`
    is how far the vectors that were given may be from the true ones, and `tilts` (r, r), one for each task, how far from each
    other's place within what they span; `error` is that of polar factors, in parts of the length of
    what has all directions.
    """

    def __init__(self, size: int) -> None:
        self.size = size  # of the task vectors' smaller side
        self.turned = self.error = 0.0
        self.tilts: list[Tensor] = []

    def svd(
        self, matrix: Tensor, top: int, *, of: Tensor | float = 0.0, noise: Tensor | float = 0.0, products: int = 0
    ) -> Triplets:
        return self.opened(matrix, top, of=of, noise=noise, products=products)[:3]

    def opened(
        self, matrix: Tensor, top: int, *, of: Tensor | float = 0.0, noise: Tensor | float = 0.0, products: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tall, wide = self.standing(matrix)
        m, n = tall.shape
        top = min(top, n)
        u, s, v = tall.new_zeros(m, top), tall.new_zeros(top), tall.new_zeros(n, top)
        others, tilt = tall.new_zeros(n, n - top), tall.new_zeros(top, top)
        if bool(tall.any()):
            found = singular(tall)
            count = found.count(float(of), float(noise), top)
            if count:
                tilt[:count, :count] = found.tilt(count)
                found, apart = found.settled(tall, count, ROUNDED * products * float(of))
                self.turned = math.hypot(self.turned, apart)
                u[:, :count], s[:count], v[:, :count] = found.u[:, :count], found.s[:count], found.v[:, :count]
            others = found.v[:, top:]
        self.tilts.append(tilt)
        return (v, s, u.mT, others) if wide else (u, s, v.mT, others)

    def common(self, matrix: Tensor, top: int, *, noise: Tensor | float = 0.0) -> Triplets:
        return self.svd(matrix, top, noise=noise)

    def ahead(self, levels: Tensor, right: Tensor) -> Tensor | None:
        return None

    def beyond(
        self,
        shared: Tensor,
        matrix: Tensor,
        top: int,
        *,
        of: Tensor,
        noise: Tensor,
        still: Tensor | None = None,
        last: bool = False,
    ) -> Triplets:
        return self.svd(matrix - shared @ (shared.mT @ matrix), top, of=of, noise=noise, products=2)

    def recast(self, matrix: Tensor, levels: Callable[[Tensor, Tensor, Tensor], Tensor], *, noise: Tensor) -> Tensor:
        tall, wide = self.standing(matrix)
        if not bool(tall.any()):
            return tall.mT if wide else tall
        found = singular(tall)
        kept = torch.arange(tall.shape[-1], device=tall.device) < found.count(0.0, float(noise), tall.shape[-1])
        s, u, v = found.s * kept, found.u * kept, found.v * kept
        made = found.function(levels(v, s, u.mT) if wide else levels(u, s, v.mT))
        return made.mT if wide else made

    def flat(self, matrix: Tensor, *, noise: Tensor) -> Tensor:
        return self.recast(matrix, lambda u, s, vh: spectral.flat_level(s) * (s > 0.0), noise=noise)

    def polar(self, matrix: Tensor) -> Tensor:
        wide = matrix.shape[-2] < matrix.shape[-1]
        factor, _ = self.parted(matrix.mT if wide else matrix)
        return factor.mT if wide else factor

    def parted(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        there = matrix.any(dim=-2)  # columns of zeros stay: what the matrix does not span is zero
        own = matrix[:, there]
        factor, root = torch.zeros_like(matrix), matrix.new_zeros(len(there), len(there))
        if not own.shape[-1]:
            return factor, root
        if SMALL * own.shape[-1] <= self.size:
            u, s, vh = spectral.svd(own.double())
            if not bool((s > 0.0).all()):
                raise Unsound
            inverses, squares = float((1.0 / s).sum()), float(s.square().reciprocal().sum())
            made, error, enlarged = (u @ vh, (vh.mT * s) @ vh), 0.0, gain(len(own), own.shape[-1], inverses, squares)
        else:
            found = polar(own)
            if found is None:
                raise Unsound
            made, error, enlarged = (found.factor, found.root), found.error, found.gain
        part = min(1.0, own.shape[-1] / self.size) ** 0.5
        self.error = math.hypot(self.error, error * part, self.turned * enlarged * part)
        if not self.error <= CLOSE:
            raise Unsound
        factor[:, there] = made[0].to(matrix.dtype)
        root[there.unsqueeze(-1) & there] = made[1].to(matrix.dtype).flatten()
        return factor, root

    def check_sizes(self, size: Tensor, least: Tensor) -> None:
        if not bool(((size == 0.0) | (size > UNTOLD * least)).all()):
            raise Unsound

    def check_choice(self, matrix: Tensor, kept: Tensor) -> None:
        tilt, size, there = torch.block_diag(*self.tilts), matrix.abs(), kept != 0.0
        across = size.clone()
        across.diagonal().zero_()
        error = tilt @ across + across @ tilt + FINE * size.max()
        if bool(there.any()) and not float(((size + error) * ~there).amax()) < float((size - error)[there].amin()):
            raise Unsound

    def check_vote(self, terms: Sequence[Tensor], weight: Any) -> None:
        total, whole = torch.zeros_like(terms[0]), torch.zeros_like(terms[0])
        for term, factor in zip(terms, weight, strict=True):
            total.add_(term, alpha=float(factor))
            whole.add_(term.abs(), alpha=abs(float(factor)))
        agreed = total.abs() >= (1.0 - CLOSE) * whole
        if not bool((agreed | (total.abs() > CLOSE * whole.max())).all()):
            raise Unsound

    def standing(self, matrix: Tensor) -> tuple[Tensor, bool]:
        """A matrix in float32 with its longer side as rows, and whether it was turned for that."""
        wide = matrix.shape[-2] < matrix.shape[-1]
        return (matrix.mT if wide else matrix).float().contiguous(), wide


def soundly(make: Callable[[Way], Tensor], matrices: Sequence[Tensor], *, fast: bool) -> Tensor:
    """What is made of matrices: with `fast` in float32 where their device is slow in float64 and they are large, if sound."""
    first = matrices[0]
    if fast and first.ndim == 2 and min(first.shape) >= LARGE and slow_in_float64(first):
        try:
            with whole_float32():
                return make(InFloat32(min(first.shape)))
        except Unsound:
            pass
    return make(InFloat64(single=fast))
