"""Truncate: one task vector, of lower rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergery.errors import RecipeError
from mergery.method import Deltas, Fraction, MergedDelta, method
from mergery.method.roles import LINEAR
from mergery.method.routing import Route
from mergery.methods._routes import by_svd


def check_rank(settings: Mapping[str, Any]) -> None:
    if settings["rank"] is not None and settings["rank"] < 0:
        raise RecipeError("rank must not be negative", why="it is a number of singular values", hint="rank: 16")


def routing(k: int, out: int, into: int, settings: Mapping[str, Any]) -> Route:
    return by_svd(k, out, into, 1, what="1 thin SVD")


def kept(smaller: int, share: float, rank: int | None) -> int:
    """How many singular triplets stay of a matrix whose smaller side is given."""
    return min(smaller, int(share * smaller + 0.5) if rank is None else rank)


@method(paper="eckart1936", unit="matrix", models=(1, 1), check=check_rank, roles=LINEAR, routing=routing)
def truncate(deltas: Deltas, *, share: Fraction = 0.5, rank: int | None = None, scale: float = 1.0) -> MergedDelta:
    """Replace the matrices of a task vector by the nearest ones of a lower rank.

        x - base = U S V^T;   out = base + scale * U_r S_r V_r^T,   r = rank, or share * min(out, in), rounded

    Settings:
        share: fraction of the singular values that stays, the largest ones; 0 gives the base.
        rank: their number instead, the same for all matrices.
        scale: factor of what stays.

    Source: Eckart and Young 1936; `truncate_rank` of sd-mecha is this with a random basis. Everything else is the
    model's own.

    Use it as a stage, to merge of a fine-tune what an adapter of that rank could hold, or to see how much of it that
    is.
    """
    from mergery.kernels.spectral import framed, svd

    cores, frame = framed(deltas)
    u, s, vh = svd(cores[0], kept(frame.smaller, share, rank))
    return frame.lift(u * (s * scale).unsqueeze(-2), vh)
