"""What a conformance suite is about: a method, how it is evaluated, and what it claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mergery.method import Method, Random
from mergery.testing.examples import EMPTY, EMPTY_MATRICES, MATRICES, SHAPES, example, same

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Evaluate = Callable[..., "Tensor"]
"""`evaluate(method, models, base, seed=0, **settings)`: merges plain tensors, as `Method.__call__` does."""

Reference = Callable[..., "np.ndarray"]
"""`reference(models, base, coins, **settings)` in float64 numpy; see `mergery.testing.reference`."""


@dataclass(frozen=True)
class Subject:
    """A method, how it is evaluated, and what it claims."""

    method: Method
    settings: Mapping[str, Any]
    evaluate: Evaluate
    reference: Reference | None
    fixed_point: Mapping[str, Any] | None
    scale_free: bool
    also: Sequence[Evaluate]
    tolerance: float
    close: float = 1e-6
    mirrored: bool = False

    def __post_init__(self) -> None:
        least, most = self.method.models
        object.__setattr__(self, "k", max(least, min(3, most or 3)))

    k: int = 0

    @property
    def bases(self) -> tuple[bool, ...]:
        """With and without a base, as far as the method takes one."""
        return {"required": (True,), "optional": (True, False), "unused": (False,)}[self.method.base]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes that the method takes."""
        return MATRICES if self.method.unit == "matrix" else SHAPES

    @property
    def empty(self) -> tuple[tuple[int, ...], ...]:
        return EMPTY_MATRICES if self.method.unit == "matrix" else EMPTY

    @property
    def large(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of more than one piece, where the method takes pieces."""
        return ((65, 129), (3, 33, 43)) if self.method.unit == "matrix" else ((129, 257), (33153,))

    def merge(
        self,
        models: Sequence[Tensor],
        base: Tensor | None,
        *,
        seed: int = 0,
        evaluate: Evaluate | None = None,
        **settings: Any,
    ) -> Tensor:
        known = {"statistics": statistics_of(self.method, models)} if self.method.statistics else {}
        own = {**self.settings, **settings}
        return (evaluate or self.evaluate)(self.method, list(models), base, seed=seed, **known, **own)

    def draws(self) -> bool:
        """Whether the seed matters."""
        if any(isinstance(ask, Random) for _, ask in self.method.asks):
            return True
        models, base = example((33, 65), self.k, base=self.bases[0])
        return not same(self.merge(models, base, seed=1), self.merge(models, base, seed=2))

    def counts(self) -> list[int]:
        least, most = self.method.models
        return sorted({max(1, least), self.k, min(5, most or 5)})


def statistics_of(method: Method, models: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """The statistics of data that a method asks for, of each model: made of its own numbers, so that they go with it."""
    import torch

    from mergery.testing.reference.data import STATISTICS

    kinds = [ask.kind for ask in method.statistics]
    return {kind: [torch.from_numpy(STATISTICS[kind](x.double().numpy())).float() for x in models] for kind in kinds}
