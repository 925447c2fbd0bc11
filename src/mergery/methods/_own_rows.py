"""The quadratic interference of task vectors whose own rows stand for their inputs, solved about a start.

    sum_i c_i |(D - d_i) d_i^T|^2   is least at   D* = (sum_i c_i d_i S_i) C^+,   S_i = d_i^T d_i,   C = sum_i c_i S_i

With the residual R = sum_i c_i (d_i - Z) S_i about a start Z, D* is Z + R C^+ on the inputs that tasks have. R is small where
tasks agree, and so is what rounding does to it; about the mean one of its k products follows from the others.

Where the tasks have fewer rows together than there are inputs, the problem is written in those rows: with A, the rows
sqrt(c_i) d_i one below the other, C is A^T A, and R is B A with B from the entries of G = A A^T alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mergery.methods._routes import LARGE

if TYPE_CHECKING:
    from torch import Tensor

Single = Literal["nothing", "grams", "all"]
FLOAT32 = 2.0**-23  # spacing of float32 at 1
FAINT = 1e-5  # of the largest eigenvalue: what float32 may have made
STEEP = 1e4  # times the first direction's gain: what float32 may not enlarge
MARGIN = 1.1  # of an estimate of the largest eigenvalue, which is never above it
ROUNDS = 24  # of the estimate


@dataclass(frozen=True)
class OwnRows:
    """The start Z (..., out, in), and the problem in the inputs or in the tasks' rows.

    In the inputs `matrix` is C (..., in, in) and `residual` R (..., out, in); in the rows they are G (..., r, r) and
    B (..., out, r), `rows` is A (..., r, in), and `aim` (..., out, r) is what B is about a start of zero. `coarse` says
    that the S_i were made in float32, and that products with eigenvectors may be.
    """

    start: Tensor
    matrix: Tensor
    residual: Tensor
    rows: Tensor | None = None
    aim: Tensor | None = None
    coarse: bool = False

    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of C (..., r), largest first and zero where nothing is, and eigenvectors of `matrix` (..., r, r)."""
        from mergery.kernels.spectral import RANK
        from mergery.kernels.symmetric import eigh

        values, vectors = eigh(self.matrix)
        return values * (values > RANK**2 * values[..., :1]), vectors.to(self.matrix.dtype)

    def flow(self, share: Callable[[Tensor], Tensor], *, smooth: bool = False) -> Tensor | None:
        """The start, moved along each eigenvector of C by a share (..., r) of the way to the minimum: (..., out, in).

        `share` gives the shares from the eigenvalues; `smooth` says that they fall with these and enlarge no small one. None
        where rounding in float32 would be seen.
        """
        import torch

        values, vectors = (self.coarsely(share) if smooth else None) or self.spectrum()
        part = share(values) * (values > 0.0)
        part, vectors = leading(part, vectors)
        values = values[..., : part.shape[-1]]
        gain = part / values.where(part > 0.0, 1.0)
        if self.matrix.dtype == torch.float32 and not self.sound(values, gain):
            return None
        step = (self.residual @ vectors) * gain.to(vectors.dtype).unsqueeze(-2)
        return self.start + self.of_inputs(step @ vectors.mT)

    def coarsely(self, share: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor] | None:
        """`spectrum` by a decomposition in float32, where that takes less time and its rounding would not be seen."""
        import torch

        from mergery.kernels.leading import settled
        from mergery.kernels.spectral import RANK
        from mergery.kernels.symmetric import has_mkl

        matrix = self.matrix
        if matrix.dtype != torch.float32 or matrix.ndim > 2 or matrix.is_cuda or not has_mkl():
            return None
        values, vectors = (each.flip(-1) for each in torch.linalg.eigh(matrix))
        part = share(values.double().clamp(min=0.0))
        count = int((part > 0.0).sum())
        if not count or float(part[count - 1]) == 1.0 or float(values[count - 1]) < FAINT * float(values[0]):
            return None
        found = settled(matrix, values, vectors, count)
        return found and (found[0] * (found[0] > RANK**2 * found[0][..., :1]), found[1])

    def sound(self, values: Tensor, gain: Tensor) -> bool:
        """Whether float32 holds what counts: no direction is enlarged far more than the first, and none that takes part is
        as faint as the rounding of C.
        """
        first = values[..., :1]
        faint = self.rows is None and bool(((gain > 0.0) & (values < FAINT * first)).any())
        return not faint and bool((gain * first <= STEEP).all())

    def minimum(self, cut: float) -> Tensor:
        """D*, zero where no task has inputs, or eigenvalues are at most `cut` times the largest: (..., out, in)."""
        import torch

        if cut > 0.0 and self.above(cut):
            root = torch.linalg.cholesky(self.matrix)
            aim = self.residual if self.aim is None else self.aim
            solved = self.of_inputs(torch.cholesky_solve(aim.mT, root).mT)
            return solved if self.rows is not None else solved.add_(self.start)
        values, vectors = self.spectrum()
        part = (values > cut * values[..., :1]).to(values.dtype)
        part, vectors = leading(part, vectors)
        gain = part / values[..., : part.shape[-1]].where(part > 0.0, 1.0)
        aim = self.residual if self.aim is None else self.aim
        step = (aim @ vectors).mul_(gain.unsqueeze(-2))
        dtype = torch.float32 if self.coarse else values.dtype  # what comes now enlarges no rounding
        step, vectors = step.to(dtype), vectors.to(dtype)
        if self.rows is None:
            step += (self.start.to(dtype) @ vectors).mul_(part.to(dtype).unsqueeze(-2))
        return self.of_inputs(step @ vectors.mT)

    def above(self, cut: float) -> bool:
        """Whether all eigenvalues are above `cut` times the largest: then C less that has a root itself."""
        import torch

        shifted = self.matrix.clone()
        shifted.diagonal(dim1=-2, dim2=-1).sub_(MARGIN * cut * largest_eigenvalue(self.matrix.float()))
        return not bool(torch.linalg.cholesky_ex(shifted).info.any())

    def of_inputs(self, step: Tensor) -> Tensor:
        """A step in the coordinates of `residual` as one in the inputs."""
        return step if self.rows is None else step @ self.rows


def leading(part: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The columns up to the last that takes part in any matrix."""
    found = (part > 0.0).nonzero()[:, -1]
    last = int(found.max()) + 1 if len(found) else 0
    return part[..., :last], vectors[..., :last]


def largest_eigenvalue(matrix: Tensor) -> Tensor:
    """An estimate (..., 1) of the largest eigenvalue of matrices (..., n, n) without negative ones, from below."""
    import torch

    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(matrix.shape[-1], 1, generator=generator, dtype=torch.float64).to(matrix)
    for _ in range(ROUNDS):
        vector = matrix @ vector
        length = torch.linalg.vector_norm(vector, dim=-2, keepdim=True)
        vector = vector / length.where(length > 0.0, 1.0)
    return (vector * (matrix @ vector)).sum(-2)


def own_rows(deltas: Sequence[Tensor], weight: Any, start: str, *, equal: bool, single: Single = "nothing") -> OwnRows:
    """The problem of task vectors (..., out, in) with c_i their weights, over |d_i|^2 with `equal`, about their mean or sum.

    In float64; where the matrices are large, `single` says what is in float32: all, or the products S_i in the inputs alone.
    """
    import torch

    from mergery.kernels.spectral import norm

    shares = []
    for delta, factor in zip(deltas, weight, strict=True):
        size = norm(delta).square() if equal else delta.new_ones(*delta.shape[:-2], 1, 1, dtype=torch.float64)
        shares.append(float(factor) / size.where(size > 0.0, 1.0))
    single = single if deltas[0].shape[-1] >= LARGE else "nothing"
    dtype = torch.float32 if single == "all" else torch.float64
    wide, share = [delta.to(dtype) for delta in deltas], 1.0 if start == "sum" else 1.0 / len(deltas)
    return about(wide, [each.to(dtype) for each in shares], weight, share, coarse=single == "grams")


def flowed(
    deltas: Sequence[Tensor],
    weight: Any,
    start: str,
    share: Callable[[Tensor], Tensor],
    *,
    fast: bool,
    smooth: bool = False,
) -> Tensor:
    """`OwnRows.flow` with c_i over |d_i|^2; with `fast` in float32 where that is large enough to matter, and sound."""
    import torch

    fast = fast and all(delta.dtype == torch.float32 for delta in deltas)
    levels: tuple[Single, ...] = ("all", "nothing") if fast else ("nothing",)
    for single in levels:
        moved = own_rows(deltas, weight, start, equal=True, single=single).flow(share, smooth=smooth)
        if moved is not None:
            return moved
    raise AssertionError("float64 is sound")


def about(
    deltas: Sequence[Tensor], shares: Sequence[Tensor], weight: Any, share: float, *, coarse: bool = False
) -> OwnRows:
    """The problem with shares c_i (..., 1, 1) about `share` times the sum; a weight of zero leaves a task out of C."""
    start = deltas[0] * share
    for delta in deltas[1:]:
        start.add_(delta, alpha=share)
    there = [index for index, factor in enumerate(weight) if float(factor) > 0.0]
    out, into = start.shape[-2:]
    if len(there) * out < into:
        return in_rows(
            start, [deltas[i] for i in there], [shares[i] for i in there], share * (len(there) == len(deltas))
        )
    centred = len(there) == len(deltas) and share * len(deltas) == 1.0
    return in_inputs(start, [deltas[i] for i in there], [shares[i] for i in there], centred, coarse=coarse)


def in_inputs(
    start: Tensor, deltas: Sequence[Tensor], shares: Sequence[Tensor], centred: bool, *, coarse: bool = False
) -> OwnRows:
    """The problem in the inputs. `centred` says that the start is the mean of these task vectors, `coarse` that the S_i are
    made in float32.
    """
    from mergery.kernels.symmetric import gram

    def squared(delta: Tensor) -> Tensor:
        return gram(delta.float()).to(delta.dtype) if coarse else gram(delta)

    last = squared(deltas[-1]).mul_(shares[-1])
    matrix = last.clone()
    residual = start * 0.0 if centred else (deltas[-1] - start) @ last
    for delta, share in zip(deltas[:-1], shares[:-1], strict=True):
        own = squared(delta).mul_(share)
        matrix += own
        if centred:
            own -= last
        residual += (delta - start) @ own
    return OwnRows(start, matrix, residual, coarse=coarse)


def in_rows(start: Tensor, deltas: Sequence[Tensor], shares: Sequence[Tensor], share: float) -> OwnRows:
    """The problem in the tasks' rows. The start is `share` times the sum of these task vectors, or anything where that is 0."""
    import torch

    from mergery.kernels.symmetric import gram

    roots = [each.sqrt() for each in shares]
    own = [delta * root for delta, root in zip(deltas, roots, strict=True)]
    rows = torch.cat(own, dim=-2)
    k, out = len(own), start.shape[-2]
    matrix = rows.new_empty(*rows.shape[:-1], rows.shape[-2])
    places = [slice(i * out, (i + 1) * out) for i in range(k)]
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
    return OwnRows(start, matrix, aim - seen, rows, aim)


def cut_of(cut: float | None, into: int) -> float:
    """The bound of a pseudo-inverse as a part of the largest eigenvalue: as given, or that of one in float32."""
    return into * FLOAT32 if cut is None else cut
