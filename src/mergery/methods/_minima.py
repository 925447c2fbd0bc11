"""What the least interference of task vectors with themselves comes to: in float32 where that is large enough, and sound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mergery.methods._own_rows import OwnRows, own_rows

if TYPE_CHECKING:
    from torch import Tensor

FLOAT32 = 2.0**-23  # spacing of float32 at 1


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
    return found(deltas, weight, start, lambda problem: problem.flow(share, smooth=smooth), equal=True, fast=fast)


def minimised(deltas: Sequence[Tensor], weight: Any, cut: float, *, equal: bool, fast: bool) -> Tensor:
    """`OwnRows.minimum` about the mean; with `fast` in float32 where that is large enough to matter, and sound."""
    return found(deltas, weight, "mean", lambda problem: problem.minimum(cut), equal=equal, fast=fast)


def found(
    deltas: Sequence[Tensor],
    weight: Any,
    start: str,
    find: Callable[[OwnRows], Tensor | None],
    *,
    equal: bool,
    fast: bool,
) -> Tensor:
    """What is found of a problem in float32, with `fast`, or in float64 where nothing is."""
    import torch

    from mergery.kernels.rates import whole_float32

    fast = fast and all(delta.dtype == torch.float32 for delta in deltas)
    for single in (True, False) if fast else (False,):
        with whole_float32():
            result = find(own_rows(deltas, weight, start, equal=equal, single=single))
        if result is not None:
            return result
    raise AssertionError("float64 is sound")


def cut_of(cut: float | None, into: int) -> float:
    """The bound of a pseudo-inverse as a part of the largest eigenvalue: as given, or that of one in float32."""
    return into * FLOAT32 if cut is None else cut
