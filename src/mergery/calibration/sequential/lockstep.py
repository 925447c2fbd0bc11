"""Forward passes of a merge and of the models that it merges, each over the data of its model, one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.passes import Shelf, threads_kept
from mergery.calibration.sequential.seen import Place, Seen, run_seeing
from mergery.calibration.turns import Turn

Weights = Mapping[str, Any]  # float32 tensors by the names of parameters
Pass = Callable[[StreamedModel], None]
"""A forward pass over some rows of data, given the model to run."""


@dataclass(frozen=True)
class Teacher:
    """A model that the merge is to answer as, and data on which it does."""

    name: str
    model: StreamedModel
    passes: Sequence[Pass]


class Fitter(Protocol):
    """Finds new weights of a block from what its matrices are multiplied with."""

    prefix: Literal["own", "merged"]
    """What a model's block is run on: the outputs of its own blocks before, or those of the merge."""

    def wants(self, place: Place) -> bool:
        """Whether a matrix of the merge is to be fitted."""
        ...

    def see(self, teacher: int, merged: Seen | None, own: Seen) -> None:
        """Take the inputs of a call of the block: in the merge (None where `prefix` is `merged`), and in a model."""
        ...

    def fitted(self, weights: Weights, teachers: Sequence[StreamedModel]) -> dict[str, Any]:
        """New weights of the block, those alone that change, given the merge's. What has been seen is forgotten."""
        ...


@runtime_checkable
class BlockFitter(Protocol):
    """Finds new weights of a block from whole calls of it."""

    prefix: Literal["own"]

    def take(self, teacher: int, args: Any, kwargs: Any, answer: Any) -> None:
        """Take a call of a block in the merge, and what the model's block answers to the same texts."""
        ...

    def found(self, unit: Unit, weights: Weights, teachers: Sequence[StreamedModel]) -> dict[str, Any]:
        """New weights of the block, those alone that change, given the merge's. What has been taken is forgotten."""
        ...


@dataclass(frozen=True)
class _Visit:
    """A call of a unit that waits for the unit's weights."""

    unit: Unit
    args: Any
    kwargs: Any

    def run(self) -> Any:
        return self.unit.forward(*self.args, **self.kwargs)


@dataclass
class _Side:
    """One model and its passes: those over the data of each teacher, or of one."""

    model: StreamedModel
    active: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        for unit in self.model.units:
            unit.module.forward = self._forward(unit)

    def _forward(self, unit: Unit) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            assert self.active is not None, "the model is called outside of its passes"
            return self.active.ask(_Visit(unit, args, kwargs))

        return forward

    def turn(self, function: Pass) -> Turn[_Visit]:
        """A pass that has run to its first unit."""
        turn: Turn[_Visit] = Turn(lambda: function(self.model))
        self._go(turn, turn.start)
        return turn

    def resume(self, turn: Turn[_Visit], answer: Any) -> None:
        """Let a pass run to its next unit."""
        self._go(turn, lambda: turn.resume(answer))

    def _go(self, turn: Turn[_Visit], step: Callable[[], None]) -> None:
        self.active = turn
        try:
            step()
        finally:
            self.active = None


class Lockstep:
    """Runs a merge and its models side by side, and gives each block of the merge new weights before the next is run."""

    def __init__(self, merged: StreamedModel, teachers: Sequence[Teacher], shelf: Shelf) -> None:
        self.merged, self.teachers, self.shelf = merged, teachers, shelf

    def run(
        self,
        fitter: Fitter | BlockFitter,
        *,
        kept: Callable[[Unit], dict[str, Any] | None],
        told: Callable[[Unit, Weights, Iterable[str]], None],
        visited: Callable[[Unit], None] = lambda unit: None,
    ) -> None:
        """Fit all blocks, in the order in which they are run.

        kept: weights that an earlier run has found for a unit; None where it has not.
        told: given each unit that is fitted, with all its weights and the names of those that are new, before the next is run.
        visited: called after each unit.
        """
        import torch

        own = fitter.prefix == "own"
        one = _Side(self.merged)
        sides = [_Side(teacher.model) if own else None for teacher in self.teachers]
        turns: list[list[Turn[_Visit]]] = []
        others: list[list[Turn[_Visit]]] = []
        with threads_kept(), torch.no_grad():
            try:
                for teacher, side in zip(self.teachers, sides, strict=True):
                    turns.append([one.turn(function) for function in teacher.passes])
                    others.append([side.turn(function) for function in teacher.passes] if side is not None else [])
                done: set[str] = set()  # not their weights, which are as many as the model's
                while waiting := [turn.asked for each in turns for turn in each if turn.asked is not None]:
                    unit = waiting[0].unit
                    if self.merged.is_head(unit):
                        _stop(turns, unit)
                        _stop(others, unit)
                        continue
                    with self.merged.filled(unit) as weights:
                        found = kept(unit)
                        if found is None and unit.name not in done:
                            found = self._fit(fitter, unit, weights, turns, others, sides)
                            told(unit, {**weights, **found}, found.keys())
                        elif own:
                            self._advance(unit, others, sides)
                        done.add(unit.name)
                        for name, value in (found or {}).items():
                            weights[name].data.copy_(value)
                        del found
                        for turn in _at(unit, turns):
                            assert turn.asked is not None
                            one.resume(turn, self.shelf.keep(turn.asked.run()))
                    visited(unit)
            finally:
                _stop(turns)
                _stop(others)

    def _fit(
        self,
        fitter: Fitter | BlockFitter,
        unit: Unit,
        weights: Weights,
        turns: Any,
        others: Any,
        sides: Sequence[_Side | None],
    ) -> dict[str, Any]:
        """What the unit's matrices are multiplied with, told to the fitter; and its new weights. Models move on by a unit."""
        seen_any = False
        for number, (teacher, side) in enumerate(zip(self.teachers, sides, strict=True)):
            with _filled(teacher.model, unit) as (theirs, known):
                for place, turn in enumerate(turns[number]):
                    if turn.asked is None or turn.asked.unit is not unit:
                        continue
                    visit = turn.asked
                    if isinstance(fitter, BlockFitter):
                        other = others[number][place]
                        assert side is not None and other.asked is not None
                        answer = self.shelf.keep(other.asked.run())
                        fitter.take(number, visit.args, visit.kwargs, answer)
                        side.resume(other, answer)
                        continue
                    if side is None:
                        _, seen = run_seeing(theirs, visit.args, visit.kwargs, known, fitter.wants)
                        fitter.see(number, None, seen)
                    else:
                        other = others[number][place]
                        assert other.asked is not None
                        asked = other.asked
                        _, mine = run_seeing(unit, visit.args, visit.kwargs, weights, fitter.wants)
                        answer, seen = run_seeing(theirs, asked.args, asked.kwargs, known, fitter.wants)
                        fitter.see(number, mine, seen)
                        side.resume(other, self.shelf.keep(answer))
                    seen_any = seen_any or bool(seen.rows or seen.scaled)
        models = [teacher.model for teacher in self.teachers]
        if isinstance(fitter, BlockFitter):
            return fitter.found(unit, weights, models)
        return fitter.fitted(weights, models) if seen_any else {}

    def _advance(self, unit: Unit, others: Any, sides: Sequence[_Side | None]) -> None:
        """Let models move on by a unit that is not fitted any more."""
        for teacher, side, each in zip(self.teachers, sides, others, strict=True):
            assert side is not None
            with _filled(teacher.model, unit):
                for turn in each:
                    if turn.asked is not None and turn.asked.unit.name == unit.name:
                        side.resume(turn, self.shelf.keep(turn.asked.run()))


@contextmanager
def _filled(model: StreamedModel, unit: Unit) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """A model's own unit of the same name, with its weights."""
    own = next(each for each in model.units if each.name == unit.name)
    with model.filled(own) as weights:
        yield own, weights


def _at(unit: Unit, turns: Sequence[Sequence[Turn[_Visit]]]) -> list[Turn[_Visit]]:
    return [turn for each in turns for turn in each if turn.asked is not None and turn.asked.unit is unit]


def _stop(turns: Sequence[Sequence[Turn[_Visit]]], unit: Unit | None = None) -> None:
    """End passes, those alone that wait for a unit where it is given."""
    for each in turns:
        for turn in each:
            if unit is None or (turn.asked is not None and turn.asked.unit.name == unit.name):
                turn.stop()
