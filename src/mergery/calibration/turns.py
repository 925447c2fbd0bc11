"""Functions that stop in the middle and wait: each runs in a thread of its own, and only one of them at a time.

A model's forward pass asks for one block after the other. Many passes, each over other data, are let run until they all ask for
the same block: so its weights are read once for all of them, and no other block need be there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

STACK = 1 << 22  # bytes of a thread's stack, of which only what is used is there

Asked = TypeVar("Asked")


class _Stopped(BaseException):
    """Raised where a function waits that nobody will answer."""


@dataclass
class Turn(Generic[Asked]):
    """One function. `resume` lets it run until it asks for something (`ask`), or is done."""

    function: Callable[[], None]

    def __post_init__(self) -> None:
        self.asked: Asked | None = None  # None once it is done
        self._answer: Any = None
        self._failure: BaseException | None = None
        self._stopping = False
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name="mergery-pass", daemon=True)

    def start(self) -> None:
        """Run it until it asks for the first time. Raises what it raises."""
        before = threading.stack_size(STACK)
        try:
            self._thread.start()
        finally:
            threading.stack_size(before)
        self._wait()

    def resume(self, answer: Any) -> None:
        """Give it what it asked for, and run it until it asks again. Raises what it raises."""
        self._answer = answer
        self._theirs.release()
        self._wait()

    def stop(self) -> None:
        """End it where it waits."""
        if self._thread.is_alive():
            self._stopping = True
            self._theirs.release()
            self._thread.join()
        self.asked = None

    def ask(self, wanted: Asked) -> Any:
        """Called by the function: hand over what it wants, and wait for the answer."""
        self.asked = wanted
        self._mine.release()
        self._theirs.acquire()
        if self._stopping:
            raise _Stopped
        answer, self._answer = self._answer, None
        return answer

    def _wait(self) -> None:
        self._mine.acquire()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        import torch

        torch.set_num_threads(1)  # of this thread: blocks, which are most of the work, run in another
        try:
            self.function()
        except _Stopped:
            pass
        except BaseException as error:  # told to whoever waits
            self._failure = error
        self.asked = None
        self._mine.release()
