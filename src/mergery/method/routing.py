"""How a matrix method gets its result, and what a matrix costs it. Loads neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Route:
    """How a matrix method gets its result, for one matrix: in words, float64 operations, and bytes it works in."""

    words: str
    operations: float
    workspace: int


Routing = Callable[[int, int, int, Mapping[str, Any]], Route]
"""The route of k models' matrices [out, in] with some settings: `routing(k, out, in, settings)`."""

FactoredRouting = Callable[[int, int, int, int, Mapping[str, Any]], Route | None]
"""The same of task vectors that are given as factors, whose ranks add up to less than the smaller side:
`factored(k, out, in, rank, settings)`. None where the method multiplies them out.
"""

WIDE = 8  # bytes of a float64


def in_frame(k: int, out: int, into: int, rank: int, cores: Route, *, dense: bool = False) -> Route:
    """The route of k models' factors: orthonormal bases of all columns and rows, what `cores` says of the cores in these, and
    the product on the base, block by block. With `dense` the method goes on from there with matrices, and returns one.
    """
    sides = out + into
    bases = 16.0 * sides * rank**2
    last = 2.0 * out * into * rank * (not dense)
    held = 6 * sides * rank + (6 * out * into if dense else k * rank * rank)
    return Route(f"cores of rank {rank}: {cores.words}", bases + cores.operations + last, cores.workspace + WIDE * held)


def of_cores(routing: Routing | None) -> FactoredRouting:
    """How a method makes its result of cores, of whose sides it asks nothing but their size."""

    def factored(k: int, out: int, into: int, rank: int, settings: Mapping[str, Any]) -> Route:
        cores = routing(k, rank, rank, settings) if routing is not None else Route("merged as matrices", 0.0, 0)
        return in_frame(k, out, into, rank, cores)

    return factored
