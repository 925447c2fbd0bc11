"""Inputs that stay in memory from one run to the next, for candidates that are made of the same models again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from mergery.graph.nodes import Node
from mergery.graph.walking import merges_below

FACTS = 1 << 16  # that are kept, at most

Window = tuple[Any, int, int]  # the key of a tensor's rows, and the elements


class Held:
    """Windows of the rows of merged tensors, as a `Reader` has them, while there is room. Threads may share it.

    What has been read first stays; what found no room is read anew each time. So of inputs that do not fit a part is spared,
    and not none, as where the last that was read would stay.
    """

    def __init__(self, room: int) -> None:
        self.room = room  # bytes
        self.used = 0
        self.key_of: Callable[[Node], bytes] | None = None  # equal keys are rows of equal bytes
        # keys of what is itself merged: of earlier runs, of this one
        self._asked: tuple[set[bytes], set[bytes]] = (set(), set())
        self._windows: dict[Window, np.ndarray] = {}
        self._facts: dict[Any, np.ndarray] = {}
        self._lock = threading.Lock()

    def begin(self, key_of: Callable[[Node], bytes]) -> None:
        """Begin a run, by whose keys rows are known."""
        earlier, last = self._asked
        self.key_of, self._asked = key_of, (earlier | last, set())

    def clear(self) -> None:
        """Free the memory."""
        with self._lock:
            self._windows.clear()
            self.used = 0

    def key(self, rows: tuple[Node, ...]) -> Any:
        """What rows are known by; None where they are not held: what is itself merged may be of settings that change, and is
        held once it has come twice.
        """
        if self.key_of is None:
            return None
        keys = tuple(map(self.key_of, rows))
        staged = {key for key, row in zip(keys, rows, strict=True) if merges_below([row])}
        earlier, now = self._asked
        now |= staged
        return keys if staged <= earlier else None

    def get(self, window: Window) -> np.ndarray | None:
        """The bytes of a window, which nobody may change."""
        return self._windows.get(window)

    def fact(self, about: Any, find: Callable[[], np.ndarray]) -> np.ndarray:
        """What was found out about rows before, such as order statistics of their task vectors, or what `find` finds out now.

        about: the rows by their keys, and the question.
        """
        known = self._facts.get(about)
        if known is None:
            known = find()
            if len(self._facts) >= FACTS:
                self._facts.clear()
            self._facts[about] = known
        return known

    def place(self, count: int, nbytes: int) -> np.ndarray | None:
        """Room for a window: uint8 (count, at least nbytes), contiguous; None where there is no more."""
        nbytes = -(-nbytes // 64) * 64
        with self._lock:
            if self.used + count * nbytes > self.room:
                return None
            self.used += count * nbytes
        return np.empty((count, nbytes), dtype=np.uint8)

    def keep(self, window: Window, raw: np.ndarray) -> None:
        """Keep what has been read into such room."""
        with self._lock:
            if window in self._windows:  # another thread has read the same
                self.used -= raw.nbytes
            self._windows[window] = raw
