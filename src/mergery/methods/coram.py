"""CORAM: average what fine-tuning made of slices of rows in the parts of their singular value decompositions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from mergery.errors import RecipeError
from mergery.method import Auto, Base, Deltas, Tensor, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import EIGEN, WIDE
from mergery.methods.orthomerge import skew
from mergery.methods.resmerge import mean

ALIKE, APART = 3.5, 16.0  # lengths of task vectors, the largest over the smallest, between which the gain falls
GAINS = (1.15, 0.5)  # of tasks up to ALIKE, and from APART on
MOST = 2.0  # times the root of their number, in which orthogonal task vectors shrink: more is a sum that cancels


def check_height(settings: Mapping[str, Any]) -> None:
    if settings["height"] < 1:
        raise RecipeError("height must be at least 1", why="it is a number of rows", hint="height: 8")


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    height = min(settings["height"], out, into)
    work = (4.0 * (k + 1) + 6.0) * out * into * height + (k + 2) * 4.0 * EIGEN * out * height**2
    return Route(f"{k + 1} thin SVDs of slices of {height} rows", work, WIDE * (3 * k + 6) * out * into)


class Parts(NamedTuple):
    """Slices (..., h, in) taken apart: vectors (..., h, h), values (..., h), largest first, and vectors (..., h, in)."""

    left: Tensor
    size: Tensor
    right: Tensor


def apart(slices: Tensor) -> Parts:
    """The SVD of slices that are no higher than wide; what is numerically zero has zeros on the right."""
    import torch

    from mergery.kernels.spectral import spanned
    from mergery.kernels.symmetric import eigh

    _, left = eigh(slices @ slices.mT)
    rows = left.mT @ slices
    size = torch.linalg.vector_norm(rows, dim=-1)
    kept = spanned(size)
    return Parts(left, size * kept, rows * (kept / size.where(kept, 1.0)).unsqueeze(-1))


def facing(own: Parts, base: Parts) -> Parts:
    """The same slices with the signs of pairs of vectors as in the base; a turn without a reflection leads from there."""
    import torch

    agreement = (own.left * base.left).sum(-2) + (own.right * base.right).sum(-1)
    sign = 1.0 - 2.0 * (agreement < 0.0)
    turned = torch.linalg.det(base.left.mT @ (own.left * sign.unsqueeze(-2)))
    least = torch.nn.functional.one_hot(agreement.abs().argmin(-1), agreement.shape[-1])
    sign = sign * (1.0 - 2.0 * least * (turned < 0.0).unsqueeze(-1))
    return Parts(own.left * sign.unsqueeze(-2), own.size, own.right * sign.unsqueeze(-1))


def angles(turn: Tensor) -> Tensor:
    """The logarithm of rotations (..., h, h): skew; half turns are left out."""
    import torch

    values, vectors = torch.linalg.eigh(1j * skew(turn))  # Cayley's: tangents of half the angles
    return (-1j * (vectors * (2.0 * values.atan()).unsqueeze(-2)) @ vectors.mH).real


def together(base: Tensor, models: Sequence[Tensor]) -> Tensor:
    """Slices (..., h, in) of the models on those of their base, averaged: float64."""
    import torch

    from mergery.kernels.spectral import polar

    origin = apart(base)
    found = [facing(apart(model), origin) for model in models]
    turn = torch.linalg.matrix_exp(mean([angles(origin.left.mT @ each.left) for each in found]))
    size, right = mean([each.size for each in found]), polar(mean([each.right for each in found]))
    return (origin.left @ (turn * size.unsqueeze(-2))) @ right


def restoring(merged: Tensor, deltas: Sequence[Tensor]) -> Tensor:
    """The scale (..., 1, 1) that brings a merged task vector to the length of the models' own, times a gain that falls with
    how unequal these are: 1.15 up to a ratio of 3.5, 0.5 from 16 on.
    """
    import torch

    from mergery.kernels.spectral import norm

    sizes = torch.stack([norm(delta) for delta in deltas])
    there = sizes > 0.0
    ratio = sizes.amax(0) / sizes.where(there, math.inf).amin(0)
    place = ((ratio.clamp(min=1.0) / ALIKE).log() / math.log(APART / ALIKE)).clamp(0.0, 1.0)
    gain = GAINS[0] + (GAINS[1] - GAINS[0]) * place
    length = norm(merged)
    shrunk = sizes.square().mean(0).sqrt() / length.where(length > 0.0, 1.0)
    return gain * shrunk.clamp(max=MOST * len(deltas) ** 0.5)


@method(paper="2608.17366", unit="matrix", check=check_height, roles=LINEAR, routing=routing)
def coram(
    deltas: Deltas,
    base: Annotated[Tensor, Base()],
    *,
    height: int = 8,
    scale: Auto = "auto",
) -> Tensor:
    """Average fine-tunes slice by slice: the turns of one side, the sizes, and the directions of the other.

        slices of `height` rows:   base = U S V^T,   x_i = U_i S_i V_i^T,   signs of pairs as in the base
        Q = exp(mean_i log(U^T U_i));   T = mean_i S_i;   Y = polar(mean_i V_i);   m = U Q T Y^T
        out = base + scale * (m - base)

    Rotations average as angles do, and do not shrink what they turn, as an average of numbers would. Of small changes it is the
    plain average of the task vectors. Slices are no higher than wide. A turn by exactly half a circle is left out.

    Settings:
        height: rows of a slice; 8 or 16 in the paper.
        scale: factor of the merged task vector. `auto` brings it to the root mean square length of the models' own, times
            1.15 where the longest of these is up to 3.5 times the shortest, 0.5 from 16 times on, and in between by the
            logarithm of the ratio. It is that of the matrix, where the paper has one number for the model, and at most
            2 sqrt(k) times the gain.

    Source: Sui et al. 2026 (arXiv 2608.17366), without its variants, which leave out columns that point away from the mean or
    deal rows to slices. Everything but the matrices of attention and MLPs is averaged.

    Use it beside `orthomerge`, for fine-tunes that turned the base's weights more than they added to them.
    """
    import torch

    from mergery.kernels.spectral import dense

    changes, origin = [delta.double() for delta in dense(deltas)], base.double()
    out, into = origin.shape[-2:]
    rows = min(height, into)
    merged = torch.zeros_like(origin)
    whole = out // rows * rows
    for start, stop, count in ((0, whole, rows), (whole, out, out - whole)):
        if start == stop:
            continue
        own, *others = (
            each[..., start:stop, :].unflatten(-2, (-1, count)) for each in (origin, *(origin + c for c in changes))
        )
        merged[..., start:stop, :] = (together(own, others) - own).flatten(-3, -2)
    return merged * (restoring(merged, changes) if isinstance(scale, str) else scale)
