"""Distilling models into a merge, block by block: a coefficient for each number of each task vector (ProDistill).

    theta = m + sum_t A_t * (t - b)        A_t begins at 0, so that no step is the merge itself
    min_A  sum_t mean (f(theta; X_t) - f(t; Y_t))^2

m are the merge's weights of a block, b the base's, t a model's; X_t is what the merge's blocks before make of the model's
texts, Y_t what its own do. Over a merge sum_t a (t - b) these are the coefficients a + A_t. Xu et al. 2025 (arXiv 2502.12706).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from mergery.calibration.model import StreamedModel, Unit
from mergery.errors import DataError


@dataclass(frozen=True)
class Call:
    """A call of a block in the merge, and what the model whose texts these are answers there."""

    teacher: int
    args: Any
    kwargs: Any
    wanted: Any


@dataclass
class Distiller:
    """Finds new weights of the blocks of a merge from whole calls of them.

    rate, epochs: of Adam, over all calls at once in each step. A block that comes no nearer stays as it is.
    """

    base: StreamedModel
    rate: float = 0.1
    epochs: int = 100
    prefix: Literal["own"] = field(default="own", init=False)

    def __post_init__(self) -> None:
        self.calls: list[Call] = []
        self.gaps: dict[str, tuple[float, float]] = {}  # by the block's name: before and after

    def take(self, teacher: int, args: Any, kwargs: Any, answer: Any) -> None:
        """Take a call of a block in the merge, and the answer of a model's block to the same texts behind its own blocks."""
        self.calls.append(Call(teacher, args, kwargs, first_tensor(answer)))

    def found(self, unit: Unit, weights: Mapping[str, Any], teachers: Sequence[StreamedModel]) -> dict[str, Any]:
        """New weights of a block, by the names of parameters; none where it is no block or comes no nearer.

        weights: the merge's, as they stand in the unit. What has been seen is forgotten. Raises DataError for what is not
        finite.
        """
        calls, self.calls = self.calls, []
        if not unit.layer or not calls:
            return {}
        base = {name: self.base.read(name) for name in weights}
        vectors = [{name: teacher.read(name) - base[name] for name in weights} for teacher in teachers]
        found, before, after = distil(unit, weights, vectors, calls, self.rate, self.epochs)
        self.gaps[unit.name] = before, after
        return found if after < before else {}


def distil(
    unit: Unit,
    weights: Mapping[str, Any],
    vectors: Sequence[Mapping[str, Any]],
    calls: Sequence[Call],
    rate: float,
    epochs: int,
) -> tuple[dict[str, Any], float, float]:
    """A block's new weights, those that change, and the loss before and after. `vectors` are the models' task vectors."""
    import torch

    moved = {name for each in vectors for name, value in each.items() if bool(value.any())}
    begin = {name: value.detach() for name, value in weights.items()}
    free = [{name: torch.zeros_like(begin[name], requires_grad=True) for name in moved} for _ in vectors]
    numbers = [sum(call.wanted.numel() for call in calls if call.teacher == each) for each in range(len(vectors))]

    def made() -> dict[str, Any]:
        found = dict(begin)
        for name in moved:
            for own, vector in zip(free, vectors, strict=True):
                found[name] = found[name] + own[name] * vector[name]
        return found

    def gap(call: Call, given: Mapping[str, Any]) -> Any:
        with standing(unit, given):
            out = first_tensor(unit.forward(*call.args, **call.kwargs))
        return (out - call.wanted).square().sum() / numbers[call.teacher]

    def loss() -> float:
        with torch.no_grad():
            given = made()
            return sum(float(gap(call, given)) for call in calls)

    before = loss()
    parameters = [value for own in free for value in own.values()]
    if not parameters:
        return {}, before, before
    optimiser = torch.optim.Adam(parameters, lr=rate)
    for _ in range(epochs):
        optimiser.zero_grad()
        with torch.enable_grad():
            for call in calls:
                gap(call, made()).backward()
        optimiser.step()
    after = loss()
    with torch.no_grad():
        found = {name: value for name, value in made().items() if name in moved}
    if not (before == before and after == after and all(bool(each.isfinite().all()) for each in found.values())):
        raise DataError(f"{unit.name} is not finite any more", hint="a smaller rate, or fewer epochs")
    return found, before, after


@contextmanager
def standing(unit: Unit, weights: Mapping[str, Any]) -> Iterator[None]:
    """The unit with other tensors in place of its parameters, for as long as the context lasts."""
    before = {name: holder._parameters[own] for holder, own, name in unit.parameters}
    try:
        for holder, own, name in unit.parameters:
            holder._parameters[own] = weights[name]
        yield
    finally:
        for holder, own, name in unit.parameters:
            holder._parameters[own] = before[name]


def first_tensor(answer: Any) -> Any:
    """The hidden states that a block gives, alone or first of several."""
    return answer[0] if isinstance(answer, (tuple, list)) else answer
