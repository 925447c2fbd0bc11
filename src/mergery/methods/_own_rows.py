"""The quadratic interference of task vectors whose own rows stand for their inputs, solved about a start.

    sum_i c_i |(D - d_i) d_i^T|^2   is least at   D* = (sum_i c_i d_i S_i) C^+,   S_i = d_i^T d_i,   C = sum_i c_i S_i

With the residual R = sum_i c_i (d_i - Z) S_i about a start Z, D* is Z + R C^+ on the inputs that tasks have. R is small where
tasks agree, and so is what rounding does to it; about the mean one of its k products follows from the others.

Rounding in float32 is small beside what is largest, while D* divides by what is small. So eigenvectors that are found in
float32 become the coordinates of the problem, which is then written once more: what belongs to a small eigenvalue stands there
by itself.

Where the tasks have fewer rows together than there are inputs, the problem is written in those rows: with A, the rows
sqrt(c_i) d_i one below the other, C is A^T A, and R is B A with B from the entries of G = A A^T alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergery.methods._portions import averaged, inverted, sturdy, suited
from mergery.methods._routes import LARGE, fewer_rows
from mergery.methods._taken import gain_of, leading, there, told

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FAINT = 1e-5  # of the largest eigenvalue: what float32 may have made
STEEP = 1e4  # times the first direction's gain: what float32 may not enlarge
GENTLE = 1e3  # the same in the tasks' rows, where no more than a hundred-thousandth of the result may be lost
MARGIN = 1.1  # of an estimate of the largest eigenvalue, which is never above it


@dataclass(frozen=True)
class OwnRows:
    """The problem about a start Z (..., out, in), in coordinates in which `matrix` (..., r, r) is C."""

    start: Tensor
    matrix: Tensor

    def residual(self, dtype: torch.dtype | None = None) -> Tensor:
        """R (..., out, r), made in the matrix's dtype or a better one."""
        raise NotImplementedError

    def of_inputs(self, step: Tensor) -> Tensor:
        """A step in these coordinates (..., out, r) as one in the inputs (..., out, in)."""
        raise NotImplementedError

    def divided(self, vectors: Tensor, values: Tensor, part: Tensor) -> Tensor:
        """D* (..., out, c) in the first of the eigenvectors (..., r, r), those of which parts (..., c) are taken.

        Those that float32 holds are only nearly right; the quotient is right to first order about them.
        """
        raise NotImplementedError

    def solved(self) -> Tensor:
        """D* (..., out, in) where the matrix has a root."""
        raise NotImplementedError

    def spectrum(self, share: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C (..., r), largest first and zero where nothing is, and eigenvectors of `matrix` (..., r, r): with a
        share at least those that take part (..., r, c).
        """
        from mergery.kernels.symmetric import eigh

        def wanted(values: Tensor) -> int:
            values = there(values)
            return values.shape[-1] if share is None else leading(share(values) * (values > 0.0)).shape[-1]

        values, vectors = eigh(self.matrix, wanted)
        return there(values), vectors.to(self.matrix.dtype)

    def coarsely(self, share: Callable[[Tensor], Tensor], *, smooth: bool) -> tuple[Tensor, Tensor] | None:
        """`spectrum` by a decomposition in float32, where that takes less time and those that take part can be told.

        With `smooth` also None where the last takes part wholly, so that its share does not fall with the eigenvalue.
        """
        import torch

        from mergery.kernels.leading import settled
        from mergery.kernels.rates import slow_in_float64
        from mergery.kernels.symmetric import coarse

        matrix, slow = self.matrix, slow_in_float64(self.matrix)
        if matrix.dtype != torch.float32 or matrix.ndim > 2 or (matrix.is_cuda and not slow):
            return None
        found = coarse(matrix)
        if found is None:
            return None
        values, vectors = found
        part = share(values.double().clamp(min=0.0))
        count = int((part > 0.0).sum())
        if (
            not count
            or (smooth and float(part[count - 1]) == 1.0)
            or float(values[count - 1]) < FAINT * float(values[0])
        ):
            return None
        made = settled(matrix, values, vectors, count)
        if made is None or (slow and not told(share, made[0])):
            return None
        return there(made[0]), made[1]

    def flow(self, share: Callable[[Tensor], Tensor], *, smooth: bool = False) -> Tensor | None:
        """The start, moved along each eigenvector of C by a share (..., r) of the way to the minimum: (..., out, in).

        `share` gives the shares from the eigenvalues; `smooth` says that they fall with these and enlarge no small one. None
        where rounding in float32 would be seen.
        """
        from mergery.kernels.rates import slow_in_float64

        coarse = self.coarsely(share, smooth=smooth) if smooth or slow_in_float64(self.matrix) else None
        values, vectors = coarse or self.spectrum(share)
        part = leading(share(values) * (values > 0.0))
        values, first = values[..., : part.shape[-1]], vectors[..., : part.shape[-1]]
        if not self.sound(values, part):
            return None
        gain = gain_of(values, part, first)
        step = (self.residual() @ first).mul_(gain)
        if coarse and not smooth:
            step = self.corrected(step, first, values, gain)
        return self.start + self.of_inputs(step @ first.mT)

    def minimum(self, cut: float) -> Tensor | None:
        """D*, zero where no task has inputs, or eigenvalues are at most `cut` times the largest: (..., out, in).

        None where rounding in float32 would be seen.
        """
        import torch

        from mergery.kernels.rates import slow_in_float64

        single = self.matrix.dtype == torch.float32
        if cut > 0.0 and not (single and slow_in_float64(self.matrix)) and self.above(cut):
            return self.solved()

        def share(values: Tensor) -> Tensor:
            return (values > cut * values[..., :1]).to(values.dtype)

        values, vectors = self.coarsely(share, smooth=False) or self.spectrum(None if single else share)
        part = leading(share(values))
        return self.least(vectors, values, part) if self.sound(values[..., : part.shape[-1]], part) else None

    def least(self, vectors: Tensor, values: Tensor, part: Tensor) -> Tensor:
        """D* (..., out, in) from all eigenvectors and eigenvalues, of which parts (..., c) are taken."""
        count = part.shape[-1]
        return self.of_inputs(self.divided(vectors, values[..., :count], part) @ vectors[..., :count].mT)

    def sound(self, values: Tensor, part: Tensor) -> bool:
        """Whether the matrix's dtype holds what counts: in float32 no direction is enlarged far more than the first, and none
        that takes part is as faint as the rounding of C.
        """
        import torch

        if self.matrix.dtype != torch.float32:
            return True
        from mergery.kernels.rates import slow_in_float64

        first, taken = values[..., :1], part > 0.0
        faint = isinstance(self, InInputs) and bool((taken & (values < FAINT * first)).any())
        steep = GENTLE if isinstance(self, InRows) and slow_in_float64(values) else STEEP
        return not faint and bool((part * first <= steep * values.where(taken, 1.0)).all())

    def corrected(self, step: Tensor, first: Tensor, values: Tensor, gain: Tensor) -> Tensor:
        """A quotient (..., out, c) in nearly right eigenvectors (..., r, c), right to first order about them."""
        from mergery.kernels.symmetric import mirrored

        rest = mirrored(first.mT, self.matrix @ first)
        rest.diagonal(dim1=-2, dim2=-1).sub_(values)
        step -= (step @ rest).mul_(gain)
        return step

    def above(self, cut: float) -> bool:
        """Whether all eigenvalues are above `cut` times the largest: then C less that has a root itself."""
        import torch

        from mergery.kernels.symmetric import largest_eigenvalue

        shifted = self.matrix.clone()
        shifted.diagonal(dim1=-2, dim2=-1).sub_(MARGIN * cut * largest_eigenvalue(self.matrix.float()))
        return not bool(torch.linalg.cholesky_ex(shifted).info.any())


@dataclass(frozen=True)
class InInputs(OwnRows):
    """The problem in the inputs, or in an orthonormal basis of them: C, the task vectors and c_i S_i of each.

    `centred` says that the start is their mean.
    """

    deltas: Sequence[Tensor]
    squares: Sequence[Tensor]
    shares: Sequence[Tensor]
    centred: bool

    def residual(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.pull(dtype or self.matrix.dtype)

    def pull(self, dtype: torch.dtype, count: int | None = None) -> Tensor:
        """R, or its first columns, in a dtype."""
        start, last = self.start.to(dtype), self.squares[-1][..., :count].to(dtype)
        result = start[..., :count] * 0.0 if self.centred else (self.deltas[-1].to(dtype) - start) @ last
        for delta, square in zip(self.deltas[:-1], self.squares[:-1], strict=True):
            own = square[..., :count].to(dtype)
            result += (delta.to(dtype) - start) @ (own - last if self.centred else own)
        return result

    def of_inputs(self, step: Tensor) -> Tensor:
        return step

    def least(self, vectors: Tensor, values: Tensor, part: Tensor) -> Tensor:
        count = part.shape[-1]
        found = self.averaged(vectors[..., count:], values[..., count:])
        return super().least(vectors, values, part) if found is None else found

    def averaged(self, rest: Tensor, values: Tensor) -> Tensor | None:
        """D* (out, in) without some eigenvectors (in, b), by each task's portion; None where that is less sound, or longer."""
        outputs, inputs = self.start.shape[-2:]
        if not suited(self.matrix, inputs - rest.shape[-1], outputs):
            return None
        inverse = inverted(self.matrix, rest, values)
        if inverse is None:
            return None
        return averaged(self.start, self.deltas, self.squares, inverse, rest, centred=self.centred)

    def divided(self, vectors: Tensor, values: Tensor, part: Tensor) -> Tensor:
        import torch

        count, gain = part.shape[-1], gain_of(values, part, vectors)
        if self.matrix.dtype == torch.float32:
            deltas = [delta @ vectors for delta in self.deltas]
            start = sum(deltas[1:], deltas[0]) / len(deltas) if self.centred else self.start @ vectors
            inner = in_inputs(start, deltas, self.shares, self.centred)
            step, begin = inner.pull(vectors.dtype, count).mul_(gain), inner.start[..., :count]
            rest = inner.matrix[..., :count, :count]
            rest.diagonal(dim1=-2, dim2=-1).sub_(values)
            step -= (step @ rest).mul_(gain)
        else:
            first = vectors[..., :count]
            step = (self.residual() @ first).mul_(gain)
            begin = self.start @ first
        return step.add_(begin * part.to(step.dtype).unsqueeze(-2))

    def solved(self) -> Tensor:
        import torch

        found = self.averaged(self.matrix[..., :0], self.matrix[..., 0, :0])
        if found is not None:
            return found
        root = torch.linalg.cholesky(self.matrix.double())
        pull = self.residual(None if sturdy(root) else root.dtype)
        return torch.cholesky_solve(pull.double().mT, root).mT.add_(self.start)


@dataclass(frozen=True)
class InRows(OwnRows):
    """The problem in the tasks' rows A (..., r, in): G, B about the start, and `aim` (..., out, r), B about zero."""

    rows: Tensor
    aim: Tensor
    pull: Tensor

    def residual(self, dtype: torch.dtype | None = None) -> Tensor:
        return self.pull if dtype is None else self.pull.to(dtype)

    def of_inputs(self, step: Tensor) -> Tensor:
        return step @ self.rows

    def divided(self, vectors: Tensor, values: Tensor, part: Tensor) -> Tensor:
        import torch

        first, gain = vectors[..., : part.shape[-1]], gain_of(values, part, vectors)
        step = (self.aim @ first).mul_(gain)
        return self.corrected(step, first, values, gain) if self.matrix.dtype == torch.float32 else step

    def solved(self) -> Tensor:
        import torch

        root = torch.linalg.cholesky(self.matrix.double())
        return self.of_inputs(torch.cholesky_solve(self.aim.double().mT, root).mT.to(self.rows.dtype))


def own_rows(deltas: Sequence[Tensor], weight: Any, start: str, *, equal: bool, single: bool = False) -> OwnRows:
    """The problem of task vectors (..., out, in) with c_i their weights, over |d_i|^2 with `equal`, about their mean or sum.

    In float64, or where the matrices are large, and with `single`, in float32.
    """
    import torch

    from mergery.kernels.spectral import norm

    shares = []
    for delta, factor in zip(deltas, weight, strict=True):
        size = norm(delta).square() if equal else delta.new_ones(*delta.shape[:-2], 1, 1, dtype=torch.float64)
        shares.append(float(factor) / size.where(size > 0.0, 1.0))
    dtype = torch.float32 if single and deltas[0].shape[-1] >= LARGE else torch.float64
    share = 1.0 if start == "sum" else 1.0 / len(deltas)
    return about([delta.to(dtype) for delta in deltas], [each.to(dtype) for each in shares], weight, share)


def about(deltas: Sequence[Tensor], shares: Sequence[Tensor], weight: Any, share: float) -> OwnRows:
    """The problem with shares c_i (..., 1, 1) about `share` times the sum; a weight of zero leaves a task out of C."""
    start = deltas[0] * share
    for delta in deltas[1:]:
        start.add_(delta, alpha=share)
    heard = [index for index, factor in enumerate(weight) if float(factor) > 0.0]
    own, shared, every = [deltas[i] for i in heard], [shares[i] for i in heard], len(heard) == len(deltas)
    if fewer_rows(len(heard), *start.shape[-2:]):
        return in_rows(start, own, shared, share * every)
    return in_inputs(start, own, shared, every and share * len(deltas) == 1.0)


def in_inputs(start: Tensor, deltas: Sequence[Tensor], shares: Sequence[Tensor], centred: bool) -> InInputs:
    """The problem in the inputs. `centred` says that the start is the mean of these task vectors."""
    from mergery.kernels.symmetric import gram

    squares = [gram(delta).mul_(share) for delta, share in zip(deltas, shares, strict=True)]
    matrix = squares[-1].clone()
    for own in squares[:-1]:
        matrix += own
    return InInputs(start, matrix, deltas, squares, shares, centred)


def in_rows(start: Tensor, deltas: Sequence[Tensor], shares: Sequence[Tensor], share: float) -> InRows:
    """The problem in the tasks' rows. The start is `share` times the sum of these task vectors, or anything where that is 0."""
    import torch

    from mergery.kernels.symmetric import gram

    roots = [each.sqrt() for each in shares]
    k, out = len(deltas), start.shape[-2]
    rows = start.new_empty(*start.shape[:-2], k * out, start.shape[-1])
    places = [slice(i * out, (i + 1) * out) for i in range(k)]
    own = [rows[..., place, :] for place in places]
    for each, delta, root in zip(own, deltas, roots, strict=True):
        torch.mul(delta, root, out=each)
    matrix = rows.new_empty(*rows.shape[:-1], rows.shape[-2])
    for i in range(k):
        for j in range(i + 1):
            block = gram(own[i].mT) if i == j else own[i] @ own[j].mT
            matrix[..., places[i], places[j]] = block
            matrix[..., places[j], places[i]] = block.mT
    aim = torch.cat([matrix[..., place, place] / root for place, root in zip(places, roots, strict=True)], dim=-1)
    if share:
        seen = sum(matrix[..., place, :] * (share / root) for place, root in zip(places, roots, strict=True))
    else:
        seen = start @ rows.mT
    return InRows(start, matrix, rows, aim, aim - seen)
