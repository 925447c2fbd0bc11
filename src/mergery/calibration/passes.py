"""Forward passes of one model over many batches, block by block: each block's weights are read once for all of them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergery.calibration.model import StreamedModel, Unit
from mergery.calibration.turns import Turn

SMALL = 1 << 20  # bytes of a tensor that stays in memory in any case
IN_MEMORY = 1 << 30  # bytes of hidden states of all batches; more are kept in files


@dataclass(frozen=True)
class Wanted:
    """What a pass waits for: something that can be done while a unit has its weights."""

    unit: Unit
    work: Callable[[], Any]


class Passes:
    """Runs functions that call the model, side by side.

    model:  its units ask for their turn from now on, whenever they are called within a function that is run here.
    call:   what the call of a unit becomes: `call(unit, ask, args, kwargs)`, where `ask(work)` waits until the unit has its
            weights, does the work, and returns what it gives.
    """

    def __init__(self, model: StreamedModel, call: Callable[..., Any]) -> None:
        self.model, self._active = model, None
        for unit in model.units:
            unit.module.forward = self._forward(unit, call)

    def _forward(self, unit: Unit, call: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            turn: Any = self._active
            assert turn is not None, "the model is called outside of its passes"
            return call(unit, lambda work: turn.ask(Wanted(unit, work)), args, kwargs)

        return forward

    def run(
        self,
        functions: Sequence[Callable[[], None]],
        *,
        before: Callable[[Unit, dict[str, Any]], Any] = lambda unit, weights: contextlib.nullcontext(),
        last: Callable[[Unit], bool] = lambda unit: False,
        told: Callable[[Unit], None] = lambda unit: None,
    ) -> None:
        """Run functions to their ends, in their order wherever they ask for the same unit.

        before: a context in which a unit's work is done, given the unit and its weights.
        last:   whether a unit need not be run: functions that ask for it are ended.
        told:   called after each unit's work.
        """
        turns: list[Turn[Wanted]] = [Turn(function) for function in functions]
        with threads_kept():
            try:
                for turn in turns:
                    self._go(turn, turn.start)
                while waiting := [turn for turn in turns if turn.asked is not None]:
                    first = waiting[0].asked
                    assert first is not None
                    unit = first.unit
                    if last(unit):
                        for turn in waiting:
                            if turn.asked is not None and turn.asked.unit is unit:
                                turn.stop()
                        continue
                    with self.model.filled(unit) as weights, before(unit, weights):
                        for turn in waiting:
                            while turn.asked is not None and turn.asked.unit is unit:
                                answer = turn.asked.work()
                                self._go(turn, lambda turn=turn, answer=answer: turn.resume(answer))
                                del answer
                    told(unit)
            finally:
                for turn in turns:
                    turn.stop()

    def _go(self, turn: Turn[Wanted], step: Callable[[], None]) -> None:
        self._active = turn
        try:
            step()
        finally:
            self._active = None


@contextmanager
def threads_kept() -> Iterator[None]:
    """Put torch's number of threads back at the end: those of passes set it for threads that come after them."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Shelf:
    """Where hidden states are kept between blocks: in memory, or in files that the system may page out."""

    def __init__(self, folder: Path, nbytes: int) -> None:
        """`nbytes` are those of all hidden states that wait at a time."""
        self.folder, self.in_files = folder, nbytes > IN_MEMORY

    def keep(self, value: Any) -> Any:
        """The same, with large tensors in files where there is much."""
        import torch

        if not self.in_files:
            return value
        if isinstance(value, (tuple, list)):
            return type(value)(self.keep(item) for item in value)
        if not isinstance(value, torch.Tensor) or value.numel() * value.element_size() < SMALL:
            return value
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="hidden-") as file:  # gone with the last that reads it
            kept = torch.from_file(file.name, shared=True, size=value.numel(), dtype=value.dtype)
        return kept.copy_(value.reshape(-1)).view(value.shape)
