"""How models that a method serves by task are kept together: see `mergery.run.packing`. Loads neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PackedPart:
    """What is kept of a tensor: `values` (float32), `bits` (one each), one `number`, `width` numbers for each row (`rows`), or
    a `matrix` of a shape of its own, such as a factor.

    `each` says that every task has its own, rather than that all share one.
    """

    kind: Literal["values", "bits", "number", "rows", "matrix"]
    each: bool = True
    width: int = 1
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Packing:
    """How models that a method serves by task are kept together, in less space than each on its own.

    parts:  of a tensor with a shape and settings, by name.
    pack:   takes the method's parameters by name, as an ask's `of` does, and gives the parts of one piece: a tensor or
            number, or a list with one for each task; a bool tensor for bits, (rows, width) for rows.
    unpack: from one task's parts of a piece to its task vector. The pieces are flat; with `by_row` they are whole rows,
            (rows, n), of which a vector is one. A matrix comes whole.
    """

    parts: Callable[[tuple[int, ...], Mapping[str, Any]], Mapping[str, PackedPart]]
    pack: Callable[..., Mapping[str, Any]]
    unpack: Callable[[Mapping[str, Any]], Tensor]
    by_row: bool = False


def serve(packed: Mapping[str, Any], task: int | None, unpack: Callable[[Mapping[str, Any]], Tensor]) -> Tensor:
    """The task vector that is unpacked for one task."""
    assert task is not None
    return unpack({name: value[task] if isinstance(value, list) else value for name, value in packed.items()})
