"""Calling a method in pieces of whole units, as the engine does with large tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergery.method import Method
from mergery.method.evaluating import Evaluation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class InPieces:
    """Evaluates methods as `Method.__call__` does, but calls the function of one that returns a tensor, and the functions of
    its asks, on so many pieces, and joins the results. A method that declares its unit rightly gives the same for any number.
    """

    pieces: int

    def __call__(
        self,
        method: Method,
        models: Sequence[Tensor],
        base: Tensor | None = None,
        *,
        seed: int = 0,
        statistics: Mapping[str, Sequence[Tensor]] | None = None,
        **settings: Any,
    ) -> Tensor:
        evaluation = _Cut(method, models, base, seed, settings, statistics)
        evaluation.pieces = self.pieces
        return evaluation.result()


class _Cut(Evaluation):
    pieces = 1

    def call(self, function: Callable[..., Any], cut: Any = ...) -> Any:
        """See `Evaluation.call`: for the whole tensor, in pieces."""
        import torch

        whole = self.view(self.vectors[0])
        if self.method.unit in ("tensor", "matrix") or len(whole) < 2:
            return super().call(function, cut)
        bounds = sorted({len(whole) * piece // self.pieces for piece in range(self.pieces + 1)})
        results = [super(_Cut, self).call(function, slice(*ends)) for ends in itertools.pairwise(bounds)]
        if isinstance(results[0], (list, tuple)):
            return [torch.cat(parts) for parts in zip(*results, strict=True)]
        return torch.cat(results)
