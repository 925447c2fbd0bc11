"""What tells how two matrices of one place are related, whatever order or coordinates one of them stands in.

Rows are looked for, not compared place by place: a neuron that stands elsewhere is found there. What no change of coordinates
can move is compared beside it: lengths of rows, singular values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mergery.alignment.rebasing.maps import polar

ROWS = 256  # that are looked for, evenly spread
ALIKE = 0.5  # cosine from which a row counts as found; chance must be well below
SIDE = 1024  # the smaller side of a matrix, up to which its singular values are compared


class Related(NamedTuple):
    """How one matrix [out, in] is related to another of its shape."""

    cosine: float  # of all entries
    distance: float  # length of the difference over the other's length
    found: float  # share of rows that some row of the other is like
    moved: float  # share of those found that are found in another place
    flipped: float  # share of those found with the other sign
    lengths: float  # of sorted rows: difference over how far they lie apart
    entries: float  # of what no order of entries moves, sums of powers: relative difference
    spectrum: float | None  # of singular values: relative difference; None where it was not looked at


def related(mine: Tensor, theirs: Tensor, *, spectrum: bool = True) -> Related:
    """How two matrices of one shape are related; float32. Rows of the second are looked for in the first.

    spectrum: whether singular values are compared, if the matrices are small enough for it.
    """
    a, b = mine.float(), theirs.float()
    size = b.norm().clamp(min=1e-30)
    cosine = float((a * b).sum() / (a.norm() * size).clamp(min=1e-30))
    lengths = [each.norm(dim=1).double().sort().values for each in (a, b)]
    spread = float((lengths[1] - lengths[1].mean()).norm().clamp(min=1e-9 * float(lengths[1].norm())))
    singular = None
    if spectrum and min(a.shape) <= SIDE:
        singular = apart(*[_singular(each) for each in (a, b)])
    return Related(
        cosine,
        float((a - b).norm() / size),
        *looked_for(a, b),
        float((lengths[0] - lengths[1]).norm()) / max(spread, 1e-300),
        apart(*[_powers(each) for each in (a, b)]),
        singular,
    )


def looked_for(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """The shares of b's rows that are found in a, of those the ones in another place, and with the other sign."""
    rows = torch.arange(min(ROWS, len(b))) * len(b) // min(ROWS, len(b))
    left, right = (each / each.norm(dim=1, keepdim=True).clamp(min=1e-30) for each in (a, b[rows]))
    cosines = right @ left.T
    best, place = cosines.abs().max(dim=1)
    chance = (2.0 * torch.log(torch.tensor(float(max(2, len(a))))) / a.shape[1]).sqrt()
    known = best > max(ALIKE, min(0.95, 1.5 * float(chance)))
    count = int(known.sum())
    if not count:
        return 0.0, 0.0, 0.0
    signs = cosines.gather(1, place[:, None])[:, 0] < 0.0
    return count / len(rows), float((place[known] != rows[known]).float().mean()), float(signs[known].float().mean())


def apart(a: Tensor, b: Tensor) -> float:
    """The relative difference of two vectors of one length."""
    return float((a - b).double().norm() / b.double().norm().clamp(min=1e-300))


def _singular(matrix: Tensor) -> Tensor:
    matrix = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).double()
    return torch.linalg.eigvalsh(matrix @ matrix.T).clamp(min=0.0).sqrt()


def _powers(matrix: Tensor) -> Tensor:
    """Means of the first, third and fourth powers of magnitudes, in units of the second."""
    sizes = matrix.abs().flatten().double()
    unit = sizes.square().mean().sqrt().clamp(min=1e-300)
    return torch.stack([(sizes / unit).pow(power).mean() for power in (1, 3, 4)])


# --- rows of tokens -------------------------------------------------------------------------------------------------------


class Tokens(NamedTuple):
    """How rows of tokens that two models share are related, on rows that a map was not found on."""

    shared: int
    cosine: float  # as they stand
    turned: float  # after the best orthogonal map
    places: float  # of that map, how much of a permutation it is: the mean of each channel's largest square


def tokens(mine: Tensor, theirs: Tensor, *, search: bool) -> tuple[Tokens, Tensor | None]:
    """How rows (tokens, width) of the same tokens are related, and the map (mine, theirs) where one is wanted and found.

    search: whether a map is looked for where the rows are not alike as they stand.
    """
    a, b = mine.double(), theirs.double()
    plain = _cosine(a, b) if a.shape == b.shape else 0.0
    if not search or plain > ALIKE or len(a) < 4:
        return Tokens(len(a), plain, plain, 1.0 if plain > ALIKE else 0.0), None
    fitted = polar(a[::2].T @ b[::2])
    turned = _cosine(a[1::2] @ fitted, b[1::2])
    return Tokens(len(a), plain, turned, float(fitted.square().max(dim=1).values.mean())), fitted


def _cosine(a: Tensor, b: Tensor) -> float:
    """The mean cosine of rows, less what all rows share."""
    a, b = a - a.mean(0), b - b.mean(0)
    return float(torch.nn.functional.cosine_similarity(a, b, dim=1).mean())
