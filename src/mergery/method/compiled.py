"""Compiled versions of a method's functions, named on the functions themselves and loaded when they are called.

    @method(unit="row")
    @compiled("mergery.methods.compiled.masks:della")
    def della(...): ...

The version must give the bytes of the function that it stands for. It is used where the kernels are compiled: with numba,
on the processor.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from mergery.kernels import choice

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Compiled:
    """The compiled version of a function of a method: of the method itself, or of what one of its asks sums or ranks.

    name: `module:function`. The function takes a `mergery.method.piece.Piece` and where to write: of a method, `(piece, out,
          out_code)`, base + result, rounded, as bytes; of a sum, `(piece, sums)`, float64 (items, grains); of a rank, `(piece,
          values)`, float32 (items, n). It returns the status of `mergery.kernels`.
    each: whether an ask's function gives one item for each model, rather than a single one.
    """

    name: str
    each: bool = True

    @cached_property
    def run(self) -> Callable[..., int]:
        """The function. Loads numba's part of LLVM."""
        module, _, function = self.name.partition(":")
        return getattr(importlib.import_module(module), function)


def compiled(name: str, *, each: bool = True) -> Callable[[F], F]:
    """Name the compiled version of a method's function: see `Compiled`."""

    def mark(function: F) -> F:
        vars(function)["compiled"] = Compiled(name, each)
        return function

    return mark


def find_compiled(function: Callable[..., Any]) -> Compiled | None:
    """The compiled version of a function, where one is named and the kernels are compiled ones."""
    named = vars(function).get("compiled") if choice() == "compiled" else None
    return named if isinstance(named, Compiled) else None
