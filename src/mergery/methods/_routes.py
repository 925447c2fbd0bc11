"""What matrix methods cost: operations and workspace of their parts, for the plan's estimate."""

from __future__ import annotations

from dataclasses import replace

from mergery.method.routing import Route

LARGE = 512  # inputs, from which products in float32 are worth their rounding
EIGEN = 8.0  # operations of an eigendecomposition of n x n, in n^3, at the rate of matrix products in float64,
LEADING = 6.0  # where up to half of the vectors are wanted,
SINGLE = 4.5  # and in float32
HALF = 1.125  # operations of a symmetric product, a^T a of m x n, in m n^2
VECTORS = 4.25  # n x n float64 matrices that eigenvectors take while they are found
WIDE = 8  # bytes of a float64
PIECE = 1 << 16  # entries of a matrix, of which sums are made at once
PROBES = 128  # directions in the outputs along which interference is measured, or all where there are no more


def decomposition(out: int, into: int) -> float:
    """Operations of a thin SVD: the smaller Gram matrix, its eigenvectors, and the vectors of the other side."""
    small, large = min(out, into), max(out, into)
    return (HALF + 2.0) * large * small**2 + EIGEN * small**3


def decomposing(out: int, into: int) -> int:
    """Bytes of a thin SVD at its worst: the matrix in float64, the vectors of its longer side while they are made orthonormal
    once more, and those of the shorter side.
    """
    small, large = min(out, into), max(out, into)
    return int(WIDE * (3.25 * large * small + VECTORS * small**2))


def leading_triplets(out: int, into: int, count: int) -> tuple[float, float]:
    """Operations of the first singular triplets alone, and float64 entries that they take at their worst."""
    small, large = min(out, into), max(out, into)
    work = HALF * large * small**2 + LEADING * small**3 + 2.0 * large * small * count
    last = (large + 2.0 * small) * small + (small + 2.0 * large + count) * count
    return work, max((VECTORS + 1.0) * small**2, last)


def by_svd(k: int, out: int, into: int, times: float, *, polars: int = 0, held: float = 1.0, what: str) -> Route:
    """`times` thin SVDs of full size and `polars` polar factors of each side; `held` matrices stay besides."""
    small = min(out, into)
    work = times * decomposition(out, into) + polars * sum(decomposition(side, small) for side in (out, into))
    space = decomposing(out, into) + int(WIDE * held * (out * into + (polars > 0) * small * (out + into)))
    return Route(f"{what} by eigenvectors of the smaller Gram matrix", work, space)


def polar_work(side: int, wide: int, *, single: bool = False) -> float:
    """Operations of the polar factor of a side x wide matrix, with `single` in float32 but for the Gram matrix."""
    short, long = min(side, wide), max(side, wide)
    if single:
        return (HALF + 1.0) * long * short**2 + (SINGLE + HALF + 1.0) * short**3
    return (HALF + 2.0) * long * short**2 + (EIGEN + HALF) * short**3


def by_leading(k: int, out: int, into: int, count: int, *, single: bool, square: float = 0.0, what: str) -> Route:
    """The first triplets of each task, and the polar factors of their vectors, stacked; then a product of these, with `single`
    in float32. `square` is how many matrices of the stacked directions there are besides.
    """
    wide, sides = k * count, out + into
    work, space = leading_triplets(out, into, count)
    work = k * work + (1.0 + (not single)) * out * into * wide
    space += (k - 1) * sides * count
    for side in (out, into):
        short = min(side, wide)
        work += polar_work(side, wide, single=single)
        space = max(
            space,
            sides * wide + max((VECTORS + 1.0) * short**2, (2.0 * side + 3.25 * short) * short) + square * wide**2,
        )
    part = 0.5 if single else 1.0
    space = max(space, (1.0 + part) * sides * wide + part * out * into + square * wide**2)
    return Route(f"{what} by eigenvectors of the smaller Gram matrix", work, int(WIDE * space))


def then_scaled(route: Route, k: int, out: int, into: int, *, held: float = 2.5) -> Route:
    """The same where the scale of the result is found afterwards (`_scale.scaled`), with so many matrices in memory."""
    probes, size = min(out, PROBES), out * into
    work = k * (EIGEN * (min(out, into) / 4) ** 3 + 4.0 * (probes + 4.0) * size)
    space = int(WIDE * (held * size + 4.0 * min(size, PIECE) + probes * (5.5 * out + 2.0 * into)))
    return replace(route, operations=route.operations + work, workspace=max(route.workspace, space))


def by_interference(k: int, out: int, into: int, *, what: str) -> Route:
    """One eigenbasis of all task vectors' rows, stacked, and their coordinates in it."""
    work = decomposition(k * out, into) + 6.0 * k * out * into * min(k * out, into)
    return Route(what, work, decomposing(k * out, into) + WIDE * (k + 1) * out * into)


def fewer_rows(k: int, out: int, into: int) -> bool:
    """Whether so many tasks have fewer rows than inputs."""
    return k * out < into


def by_own_rows(k: int, out: int, into: int, *, single: bool, what: str, again: bool = False) -> Route:
    """The eigenvectors of the interference of task vectors with themselves, about their mean, in the smaller of inputs and
    rows; with `single` the products are in float32, at twice the rate. `again` says that the inputs' portions of each task are
    found instead, or where that is not sound the problem written once more in these vectors, which takes the memory.
    """
    rows = k * out
    if rows < into:
        small = rows
        products = (k - 1 + HALF) * rows * out * into + 4.0 * out * rows**2 + 2.0 * out * rows * into
        held = 2 * rows * into + 3 * out * into + 3 * out * rows
    else:
        small = into
        products = (k * HALF + 2.0 * (k - 1) + (1.0 if again else 4.0)) * out * into**2 + again * 2.0 * k * into**3
        held = (5 + again * (k + 1)) * out * into + (k + 2 + again * (k + 1)) * into * into
    held = held if single else 2 * (held + k * out * into)
    return Route(
        what,
        products * (0.5 if single else 1.0) + (SINGLE if single else EIGEN) * small**3,
        int(WIDE * (held / 2 + VECTORS * small * small)),
    )
